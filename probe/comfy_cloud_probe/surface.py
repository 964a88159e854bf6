"""A server of API v2 that is observed: Comfy Cloud or a deployment, with the jobs and files that
the probe makes there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from typing import Any
from uuid import uuid4

import aiohttp

from comfy_cloud_probe.points import Findings, SurfaceName
from comfy_cloud_probe.wire import CALL_TIMEOUT, LOOK, Graph, Reply, Wire
from proxy.translate import codec
from proxy.translate.reading import field_of

#: Statuses after which nothing follows.
ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})

#: Seconds that the ends of cancelled jobs are waited for, and those in which the cloud tidies up.
_CLOSE, _SETTLE = 8.0, 1.5
#: Bytes a second of an upload; slower ones are given up.
_UPLOAD_RATE = 500_000
#: Characters of a word of a server that are shown.
_WORD = 40


@dataclass(slots=True)
class JobWatch:
    """What was read of a job: how its progress looks while it runs, its statuses and places in the
    queue in their order, when it ran first (seconds since it was sent), and the last answer."""

    progress: str = "not seen running"
    states: list[str] = field(default_factory=list)
    waited: float | None = None
    job: dict[str, Any] = field(default_factory=dict)

    def take(self, told: dict[str, Any], waited: float) -> bool:
        """Take an answer. Return whether the job has ended, or is not there."""
        self.job = told
        status, position = told.get("status"), told.get("queue_position")
        state = word(status) + (f" at {position}" if isinstance(position, int) else "")
        if not self.states or self.states[-1] != state:
            self.states.append(state)
        if status == "running":
            self.waited = self.waited or waited
            progress = told.get("progress", "absent")
            self.progress = "null" if progress is None else "an object"
            self.progress = "absent" if progress == "absent" else self.progress
        return status not in ("queued", "running", "canceling")


@dataclass(slots=True)
class V2Surface:
    """One server, whose points begin with `name`. `classes` are its node classes, as far as they
    are known; `removed` are the jobs that v1 deletes later, as API v2 itself cannot. A job may take
    `patience` seconds."""

    wire: Wire
    findings: Findings
    name: SurfaceName
    classes: Mapping[str, Any]
    removed: list[str]
    patience: float
    _open: list[str] = field(init=False, default_factory=list)
    _files: list[str] = field(init=False, default_factory=list)

    def see(self, point: str, observed: str, note: str = "") -> None:
        """Record an observation."""
        self.findings.see(f"{self.name}_{point}", observed, note)

    def miss(self, why: str, *points: str) -> None:
        """Say why points were not seen."""
        self.findings.miss((f"{self.name}_{point}" for point in points), why)

    async def call(self, method: str, path: str, **options: Any) -> Reply:
        """Send a request below `/api/v2`. What a server repeats of the key is taken out."""
        reply = await self.wire.call(method, f"api/v2/{path}", bearer=True, **options)
        return replace(reply, body=self.without_key(reply.body))

    def without_key(self, data: bytes) -> bytes:
        """Return what a server sent without the key."""
        return data.replace(self.wire.key.encode(), codec.REDACTED.encode())

    # --- jobs ------------------------------------------------------------------------------

    async def submit(self, graph: Graph, **more: Any) -> tuple[str | None, Reply]:
        """Send a graph with a key of its own. Return the id of its job, and the answer."""
        body = {"workflow": graph, **more}
        reply = await self.call("POST", "jobs", json=body, idempotency_key=str(uuid4()))
        job = reply.dict().get("id")
        if reply.status >= 300 or not isinstance(job, str):
            return None, reply
        self._open.append(job)
        self.removed.append(job)
        return job, reply

    async def cancel(self, job: str) -> Reply:
        """Cancel a job."""
        return await self.call("POST", f"jobs/{job}/cancel")

    async def until(self, job: str, wanted: str = "") -> JobWatch:
        """Read a job until it has ended, or has the status that is `wanted`."""
        watch, begun = JobWatch(), time.monotonic()
        while (waited := time.monotonic() - begun) < self.patience:
            told = (await self.call("GET", f"jobs/{job}")).dict()
            if watch.take(told, waited) or told.get("status") == wanted:
                break
            await asyncio.sleep(LOOK)
        return watch

    async def ran(self, graph: Graph) -> tuple[JobWatch | None, Reply]:
        """Send a graph, and read its job to the end; `None` if it was refused."""
        job, reply = await self.submit(graph)
        return (None if job is None else await self.until(job)), reply

    # --- files -----------------------------------------------------------------------------

    async def upload(self, path: str, data: bytes, **fields: str) -> Reply:
        """Upload a file; it is deleted at the end."""
        form = aiohttp.FormData({"content_type": "text/plain", "file_path": path, **fields})
        form.add_field("file", BytesIO(data), filename="probe.txt", content_type="text/plain")
        timeout = CALL_TIMEOUT + len(data) / _UPLOAD_RATE
        return self._kept(await self.call("POST", "assets", data=form, timeout=timeout))

    async def from_hash(self, hash_: object) -> Reply:
        """Ask for a record of known bytes; it is deleted at the end."""
        return self._kept(await self.call("POST", "assets/from-hash", json={"hash": hash_}))

    def _kept(self, reply: Reply) -> Reply:
        if isinstance(id_ := reply.dict().get("id"), str) and id_ not in self._files:
            self._files.append(id_)
        return reply

    async def close(self) -> None:
        """Cancel the jobs that continue, wait a little for their ends, and delete the files."""
        await asyncio.gather(*map(self.cancel, self._open))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await asyncio.gather(*map(self.until, self._open))
        paths = [f"assets/{id_}" for id_ in self._files]
        replies = await asyncio.gather(*(self.call("DELETE", path) for path in paths))
        if replies:
            again = await self.call("DELETE", paths[0])
            self.see("delete", f"{outcome(replies[0])}, then {outcome(again)}")
        await asyncio.sleep(_SETTLE)


def word(value: object) -> str:
    """Return a word of a server, shortened."""
    return str(value)[:_WORD]


def outcome(reply: Reply) -> str:
    """Return status and code, and whether there is a `Retry-After`."""
    code = field_of(reply.dict(), "error", "code")
    words = [str(reply.status), code if isinstance(code, str) and len(code) <= 60 else ""]
    if "Retry-After" in reply.headers:
        words.append("with Retry-After")
    return " ".join(word for word in words if word)


def hours(begun: object, ended: object) -> str:
    """Return the time between two times of RFC 3339 in whole hours."""
    if ended is None:
        return "never"
    try:
        whole = datetime.fromisoformat(str(ended)) - datetime.fromisoformat(str(begun))
    except (TypeError, ValueError):
        return "absent"
    return f"{round(whole.total_seconds() / 3600)} h"


def present(value: Mapping[str, Any], *names: str) -> str:
    """Return which of these fields have a value."""
    return ", ".join(name for name in names if value.get(name) not in (None, "", [], {})) or "none"
