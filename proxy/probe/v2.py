"""What API v2 leaves open, on Comfy Cloud and on a deployment, and whether a key may pick one.

The same steps run on both: what they observe is named after the surface, `v2_…` or `deployment_…`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp

from proxy.probe import workflows
from proxy.probe.points import V2_POINTS, Findings, Surface
from proxy.probe.wire import JOB, LOOK, Graph, ProbeRun, Reply, Wire

#: What is observed where the account names no deployment.
NONE = "no deployment"

#: Seconds for which a stream is read, and its bytes.
_STREAM, _STREAM_BYTES = 10.0, 1024 * 1024
#: Seconds that the ends of cancelled jobs are waited for, and those in which the cloud tidies up.
_CLOSE, _SETTLE = 8.0, 1.5


async def pick(run: ProbeRun) -> None:
    """Observe whether a key may pick a deployment of its workspace, and whose classes it sees then.

    The pick is a cookie, which is dropped again: nothing is changed for anybody else.
    """
    wire, findings = run.wire, run.findings
    workspace = (await wire.call("GET", "api/workspaces/current")).dict().get("id")
    found = await _first_deployment(wire, workspace) if isinstance(workspace, str) else None
    if found is None:
        for point in ("deployment_pick", "deployment_classes"):
            findings.see(point, NONE)
        return
    path = f"api/workspaces/{quote(str(workspace), safe='')}/deployment"
    reply = await wire.call("PUT", path, json={"deployment_id": found})
    cookie = "with a cookie" if "Set-Cookie" in reply.headers else "without a cookie"
    findings.see("deployment_pick", f"{reply.outcome()} {cookie}")
    try:
        classes = (await wire.call("GET", "api/object_info")).dict().keys()
    finally:
        wire.session.cookie_jar.clear()
    others = len(classes ^ run.classes.keys())
    findings.see("deployment_classes", "others" if others and classes else "the same", f"{others}")


async def _first_deployment(wire: Wire, workspace: str) -> str | None:
    reply = await wire.call("GET", f"api/workspaces/{quote(workspace, safe='')}/deployments")
    listed = reply.dict().get("deployments")
    for item in listed if isinstance(listed, list) else ():
        id_ = item.get("id") if isinstance(item, dict) else None
        if isinstance(id_, str):
            return id_
    return None


def no_surface(findings: Findings, surface: Surface) -> None:
    """Record that there is no such surface."""
    for name in V2_POINTS:
        findings.see(f"{surface}_{name}", NONE)


async def cloud(run: ProbeRun) -> None:
    """Observe Comfy Cloud; its jobs are among those of the run, which are removed."""
    before = len(run.jobs)
    await observe(run.wire, run.findings, "v2", run.jobs)
    listed = (await run.wire.call("GET", "api/jobs", query={"limit": "100"})).dict().get("jobs")
    ids = {job.get("id") for job in listed if isinstance(job, dict)} if listed else set()
    known = not ids.isdisjoint(run.jobs[before:])
    run.findings.see("v2_in_v1_list", "yes" if known else "no")


async def observe(
    wire: Wire, findings: Findings, surface: Surface, removed: list[str] | None = None
) -> None:
    """Observe one surface: its jobs, their outputs, ends and streams, its refusals and uploads.

    The jobs are added to those that are `removed` later; API v2 itself cannot remove any.
    """
    jobs = _Jobs(wire, [] if removed is None else removed)

    def see(name: str, observed: str, note: str = "") -> None:
        findings.see(f"{surface}_{name}", observed, note)

    try:
        job, reply = await jobs.submit(workflows.pictures())
        see("accepts", "accepted" if job else _outcome(reply))
        if job is not None:
            see("stream", await _stream(wire, job))
            polled, ended = await jobs.end(job)
            see("polled_progress", polled)
            see("end", str(ended.get("status") or "none"), ", ".join(jobs.statuses[job]))
            _see_end(see, ended)
        unknown = {"1": {"class_type": f"Unknown{uuid4().hex}", "inputs": {}}}
        _, reply = await jobs.submit(unknown)
        see("unknown_class", _outcome(reply))
        for name, graph in (
            ("invalid", workflows.invalid()),
            ("half_valid", workflows.partly_valid()),
        ):
            wrong, reply = await jobs.submit(graph)
            see(name, _outcome(reply))
            if name == "invalid":
                error = None if wrong is None else (await jobs.end(wrong))[1].get("error")
                see("failure", ", ".join(sorted(error)) if isinstance(error, dict) else "none")
        _, reply = await jobs.submit(workflows.tiny(), client_id="probe", number=1)
        see("unknown_fields", _outcome(reply))
        pnginfo = {"extra_pnginfo": {"workflow": {"id": "probe"}}}
        _, reply = await jobs.submit(workflows.tiny(), extra_data=pnginfo)
        see("extra_pnginfo", _outcome(reply))
        labelled, reply = await jobs.submit(workflows.tiny(), metadata={"ccp_probe": "1"})
        see("labels", _outcome(reply))
        see("list", _outcome(await wire.call("GET", "api/v2/jobs", bearer=True)))
        if labelled is not None:
            await jobs.cancel(labelled)
            see("cancel", str((await jobs.end(labelled))[1].get("status")))
        see("upload_folder", _outcome(await _upload(wire, "probe dir/photo é.txt")))
        see("upload_11_mb", _outcome(await _upload(wire, "probe.bin", 11_000_000)))
    finally:
        await jobs.close()
    missing = [f"{surface}_{name}" for name in V2_POINTS]
    findings.miss(missing, "The surface did not come to it.")


def _see_end(see: Any, job: dict[str, Any]) -> None:
    outputs = job.get("outputs")
    items = (
        [item for item in outputs if isinstance(item, dict)] if isinstance(outputs, list) else []
    )
    by_node = sorted(f"{item.get('node_id') or '?'} {item.get('type')}" for item in items)
    see("output_types", ", ".join(by_node) or "none")
    times = [name for name in ("started_at", "completed_at", "metrics") if job.get(name)]
    see("times", ", ".join(times) or "none")
    see("retention", _hours(job.get("created_at"), job.get("expires_at")))


def _hours(begun: object, ended: object) -> str:
    try:
        whole = datetime.fromisoformat(str(ended)) - datetime.fromisoformat(str(begun))
    except (TypeError, ValueError):
        return "absent"
    return f"{round(whole.total_seconds() / 3600)} h"


def _outcome(reply: Reply) -> str:
    """Return status and code, and whether there is a `Retry-After`."""
    error = reply.dict().get("error")
    code = error.get("code") if isinstance(error, dict) else None
    words = [str(reply.status), code if isinstance(code, str) and len(code) <= 60 else ""]
    if "Retry-After" in reply.headers:
        words.append("with Retry-After")
    return " ".join(word for word in words if word)


async def _stream(wire: Wire, job: str) -> str:
    """Return the types of the frames of a job's stream, sorted, or why there is none."""
    url = wire.base_url.joinpath("api", "v2", "jobs", job, "events")
    headers = {"Authorization": f"Bearer {wire.key}", "Accept": "text/event-stream"}
    types, read = set(), 0
    try:
        async with (
            asyncio.timeout(_STREAM),
            wire.session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                return str(answer.status)
            async for line in answer.content:
                read += len(line)
                if line.startswith(b"event:"):
                    types.add(line[6:].strip().decode(errors="replace")[:20])
                if read > _STREAM_BYTES:
                    break
    except (TimeoutError, aiohttp.ClientError, ValueError):
        types.add("open")
    return ", ".join(sorted(types)) or "nothing"


async def _upload(wire: Wire, path: str, size: int = 5) -> Reply:
    form = aiohttp.FormData({"content_type": "text/plain", "file_path": path})
    form.add_field("file", BytesIO(b"\0" * size), filename="probe.txt", content_type="text/plain")
    return await wire.call("POST", "api/v2/assets", data=form, bearer=True)


class _Jobs:
    """The jobs of a surface, which are cancelled at the end."""

    def __init__(self, wire: Wire, removed: list[str]) -> None:
        self._wire = wire
        self._removed = removed
        self._open: list[str] = []
        self.statuses: defaultdict[str, dict[str, None]] = defaultdict(dict)

    async def submit(self, graph: Graph, **more: Any) -> tuple[str | None, Reply]:
        body = {"workflow": graph, **more}
        reply = await self._wire.call(
            "POST", "api/v2/jobs", json=body, bearer=True, idempotency_key=str(uuid4())
        )
        job = reply.dict().get("id")
        if reply.status >= 300 or not isinstance(job, str):
            return None, reply
        self._open.append(job)
        self._removed.append(job)
        return job, reply

    async def cancel(self, job: str) -> None:
        await self._wire.call("POST", f"api/v2/jobs/{job}/cancel", bearer=True)

    async def end(self, job: str) -> tuple[str, dict[str, Any]]:
        """Return how progress is read while it runs, and the job at its end."""
        polled, told = "not seen running", {}
        deadline = time.monotonic() + JOB
        while time.monotonic() < deadline:
            told = (await self._wire.call("GET", f"api/v2/jobs/{job}", bearer=True)).dict()
            status = told.get("status")
            self.statuses[job][str(status)[:20]] = None
            if status == "running":
                progress = told.get("progress", "absent")
                polled = "null" if progress is None else "an object"
                polled = "absent" if progress == "absent" else polled
            elif status != "queued" and status != "canceling":
                break
            await asyncio.sleep(LOOK)
        return polled, told

    async def close(self) -> None:
        """Cancel what continues, and wait a little for the ends."""
        await asyncio.gather(*map(self.cancel, self._open))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await asyncio.gather(*map(self.end, self._open))
        await asyncio.sleep(_SETTLE)
