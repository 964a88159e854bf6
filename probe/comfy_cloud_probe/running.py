"""The level `run`: runs small workflows, and removes what it made."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

from comfy_cloud_probe import files, messages, workflows
from comfy_cloud_probe.points import Findings
from comfy_cloud_probe.wire import JOB, LOOK, ProbeRun, Reply, Wire
from proxy.translate.reading import field_of, objects_of

#: Seconds in which the answers about a job catch up with its events.
_LATE = 20.0

#: Seconds in which the detail of an ended job counts as complete at once.
_AT_ONCE = 1.0

#: Reads at the end that show whether many are throttled, and how many of them at once.
_BURST, _AT_A_TIME = 60, 10
#: Seconds in which an interrupted job is seen to have ended.
_ENDS_WITHIN = 5.0

#: More jobs than any plan runs at once, so that the last one waits.
_MAX_JOBS = 6


# --- submissions ---------------------------------------------------------------------------


async def refusals(run: ProbeRun) -> None:
    """Observe the answers to graphs that cannot run, or only in part."""
    reply = await run.submit(workflows.invalid())
    if reply.job is None:
        run.findings.see("invalid_prompt", f"{reply.status} {reply.form()}".strip())
    errors = reply.dict().get("node_errors")
    about = [error for node in errors.values() for error in node["errors"]] if errors else []
    reply = await run.submit(workflows.partly_valid())
    job, errors = reply.job, reply.dict().get("node_errors")
    about += [error for node in errors.values() for error in node["errors"]] if errors else []
    if about:
        run.findings.see("node_error_details", "yes" if "details" in about[0] else "no")
    if job is None:
        run.findings.see("partly_valid", "refused", reply.outcome())
        return
    found = await run.reaches(job, ("pending", "in_progress", "completed"), 3.0)
    note = "node_errors told" if errors else "nothing told"
    run.findings.see("partly_valid", f"{'runs' if found else 'no job'}, {note}")


async def annotated(run: ProbeRun) -> None:
    """Observe whether `NAME [input]` is understood."""
    if run.upload:
        reply = await run.submit(workflows.annotated(run.upload))
        run.findings.see("annotated_name", "accepted" if reply.job else "refused")


async def main(run: ProbeRun) -> None:
    """Observe a whole job, and a repetition of it."""
    graph = workflows.whole(run.upload, run.classes)
    wanted, client = str(uuid4()), f"probe-{uuid4()}"
    before = len(run.announced.frames)
    reply = await run.submit(graph, prompt_id=wanted, client_id=client)
    job = reply.job
    if job is None:
        bare = reply.status == 200 and "error" not in reply.dict()
        run.findings.see("submission", "accepted, no prompt_id" if bare else reply.outcome())
        after = reply.headers.get("Retry-After", "")
        run.findings.see("retry_after", f"{after} s" if after.isdigit() else "none")
        return
    run.findings.see("submission", "accepted")
    run.findings.see("prompt_id", "honoured" if job == wanted else "minted")
    ended = await run.ended(job)
    early = await _detail(run, job)
    frames = run.announced.frames[before:]
    first = next((frame.at for frame in frames if frame.job == job), reply.at)
    run.findings.see("answer_order", "event first" if reply.at - first > 0.3 else "answer first")
    if not ended:
        run.findings.miss(("job_events", "detail_delay"), "The job did not end in time.")
        return
    await run.silent.quiet(0.2, 2.0)
    messages.of_job(run.findings, job, frames, run.silent.frames)
    await _answers(run, job, early, client)
    before = len(run.announced.frames)
    reply = await run.submit(graph, prompt_id=wanted)
    again = reply.job
    if again in (None, job):
        run.findings.see("prompt_id_again", "refused" if again is None else "the same job")
        again = (await run.submit(graph)).job
    else:
        run.findings.see("prompt_id_again", "another job")
    if again is not None and await run.ended(again):
        messages.of_repetition(run.findings, again, run.announced.frames[before:])


async def _detail(run: ProbeRun, job: str) -> dict[str, Any]:
    """Return the detail of an ended job once it is complete, and note how late that is."""
    begun, late = time.monotonic(), ""
    while True:
        detail = (await run.detail(job)).dict()
        if detail.get("status") not in ("pending", "in_progress") and detail.get("outputs"):
            break
        now = time.monotonic() - begun
        if now > _AT_ONCE and not late:
            late = "no outputs" if detail.get("status") == "completed" else "in_progress"
        if now > _LATE:
            return detail
        await asyncio.sleep(LOOK)
    run.findings.see(
        "detail_delay", f"later, {late}" if late else f"complete within {_AT_ONCE:g} s"
    )
    return detail


async def _answers(run: ProbeRun, job: str, detail: dict[str, Any], client: str) -> None:
    see = run.findings.see
    created = detail.get("create_time")
    if isinstance(created, int | float):
        see("create_time", "milliseconds" if created > 1e11 else "seconds")
    extra = field_of(detail, "workflow", "extra_data")
    echoed = isinstance(extra, dict) and extra.get("client_id") == client
    see("client_id", "echoed" if echoed else "absent")
    fields = [name for name in ("executor", "deployment") if detail.get(name)]
    see("job_executor", " and ".join(fields) or "absent")
    frames = [frame for frame in run.announced.frames if isinstance(frame.data, dict)]
    carriers = {frame.type for frame in frames if frame.job == job and "workflow_id" in frame.data}
    see("workflow_id", ", ".join(sorted(carriers)) or "none")
    await _usage(run, job)
    outputs = detail.get("outputs") or {}
    items = _output_items(outputs.get("3"))
    if items:
        item = items[0]
        see("display_name", "present" if "display_name" in item else "absent")
        see("output_ids", "present" if {"id", "hash"} <= item.keys() else "absent")
        folder, _, _ = workflows.PREFIX.partition("/")
        named = str(item.get("display_name", "")).startswith(f"{folder}/")
        where = "subfolder" if item.get("subfolder") == folder else ""
        see("output_subfolder", where or ("display_name" if named else "nowhere"))
        await files.downloads(run, item)
    video = outputs.get("8")
    if isinstance(video, dict) and video:
        see("video_keys", ", ".join(sorted(video)))
    see("job_assets", str((await run.wire.call("GET", f"api/jobs/{job}/assets")).status))
    raw = await run.wire.call("GET", f"api/job/{job}/status")
    see("raw_status", str(raw.dict().get("status") or raw.status))


async def _usage(run: ProbeRun, job: str) -> None:
    """Observe whether the newest event of usage is about a job that has ended."""
    reply = await run.wire.call("GET", "api/billing/events", query={"limit": "1"})
    events = reply.dict().get("events")
    if not isinstance(events, list):
        run.findings.see("usage_event", "not readable")
        return
    newest = next((event for event in events if isinstance(event, dict)), None)
    if newest is None or newest.get("event_type") != "gpu_usage":
        run.findings.see("usage_event", "none")
        return
    names_it = job in json.dumps(newest.get("params"))
    run.findings.see("usage_event", "names the job" if names_it else "does not name the job")


def _output_items(output: Any) -> list[dict[str, Any]]:
    return objects_of(field_of(output, "images"))


async def failure(run: ProbeRun) -> None:
    """Observe a job that fails when it runs."""
    graph = workflows.failing(run.classes)
    if not graph:
        ids = ("error_detail", "error_node", "exception_type")
        run.findings.miss(ids, "The catalog has no class that fails on purpose.")
        return
    before = len(run.announced.frames)
    job = (await run.submit(graph)).job
    if job is None or not await run.ended(job):
        return
    messages.of_failure(run.findings, job, run.announced.frames[before:])
    await run.reaches(job, ("failed",), _LATE)
    detail = (await run.detail(job)).dict()
    if isinstance(detail.get("execution_error"), dict):
        run.findings.see("error_detail", "object")
    elif isinstance(detail.get("error_message"), str):
        run.findings.see("error_detail", "text")


# --- cancelling ----------------------------------------------------------------------------


async def cancels(run: ProbeRun) -> None:
    """Observe a job that is cancelled while it waits, and one while it runs."""
    before = len(run.announced.frames)
    first = (await run.submit(workflows.slow(run.classes))).job
    if first is None:
        return
    await _cancel_waiting(run, before)
    if await run.reaches(first, ("in_progress",), JOB) is None:
        ids = ("queue_delete", "cancel_running")
        run.findings.miss(ids, "No job was seen running before it ended.")
        return
    await run.wire.call("POST", "api/queue", json={"delete": [first]})
    stopped = await run.reaches(first, ("cancelled",), 1.5) is not None
    run.findings.see("queue_delete", "cancels it" if stopped else "leaves it")
    await run.cancel(first)
    if await run.reaches(first, ("cancelled",), 5.0) is None:
        run.findings.miss(("cancel_running",), "The job ended before it was cancelled.")
        return
    await run.announced.quiet(0.5, 3.0)
    messages.of_cancel(run.findings, "cancel_running", first, run.announced.frames[before:])


async def _cancel_waiting(run: ProbeRun, before: int) -> None:
    """Fill the plan's slots until a job waits, look at it, and cancel it."""
    waiting = None
    for _ in range(_MAX_JOBS):
        job = (await run.submit(workflows.slow(run.classes))).job
        if job is None:
            break
        await asyncio.sleep(LOOK)
        detail = (await run.detail(job)).dict()
        queue = (await run.wire.call("GET", "api/queue")).dict()
        entries = [
            entry
            for entry in queue.get("queue_pending") or []
            if isinstance(entry, list) and len(entry) > 2 and entry[1] == job
        ]
        if detail.get("status") == "pending" and entries:
            waiting = job
            run.findings.see("queue_reason", str(detail.get("queue_reason") or "absent"))
            wrapped = isinstance(entries[0][2], dict) and "prompt" in entries[0][2]
            run.findings.see("queue_prompt", "wrapper" if wrapped else "graph")
            break
    if waiting is None:
        ids = ("queue_reason", "queue_prompt", "cancel_pending")
        run.findings.miss(ids, "No job was seen waiting.")
        return
    await run.cancel(waiting)
    if await run.reaches(waiting, ("cancelled",), 5.0) is not None:
        await run.announced.quiet(0.3, 1.5)
        messages.of_cancel(run.findings, "cancel_pending", waiting, run.announced.frames[before:])


async def interrupts(run: ProbeRun) -> None:
    """Observe which of two jobs an interrupt ends. Skipped while the account has jobs of others."""
    await run.stop(await _queued(run.wire))
    replies = [await run.submit(workflows.slow(run.classes)) for _ in range(2)]
    older, newer = (reply.job for reply in replies)
    if older is None or newer is None:
        return
    started = await run.reaches(older, ("in_progress",), JOB) is not None
    both = started and await run.reaches(newer, ("in_progress",), 2.0) is not None
    queued = await _queued(run.wire)
    if not {older, newer} <= queued <= set(run.jobs):
        why = "Another program has jobs." if queued - set(run.jobs) else "The jobs ended too soon."
        run.findings.miss(("interrupt_scope",), why)
        await run.stop([older, newer])
        return
    await run.wire.call("POST", "api/interrupt", json={"prompt_id": newer})
    waits = ((newer, _ENDS_WITHIN), (older, 1.5))
    ended = [await run.reaches(job, ("cancelled",), wait) is not None for job, wait in waits]
    scopes = {
        (True, False): "the named job",
        (False, True): "the oldest running job" if both else "the running job",
        (True, True): "all running jobs",
    }
    run.findings.see("interrupt_scope", scopes.get((ended[0], ended[1]), "nothing"))
    await run.stop([older, newer])


async def _queued(wire: Wire) -> set[str]:
    """Return the jobs in the account's queue, whosever they are."""
    queue = (await wire.call("GET", "api/queue")).dict()
    entries = [*queue.get("queue_running", ()), *queue.get("queue_pending", ())]
    return {str(entry[1]) for entry in entries}


# --- the newer interface --------------------------------------------------------------------


async def v2(run: ProbeRun) -> None:
    """Submit by `/api/v2` with a key, and once more with the same key."""
    run.findings.see("free", (await run.wire.call("POST", "api/free", json={})).outcome())
    body = {"workflow": workflows.tiny()}
    key = str(uuid4())

    async def submit() -> tuple[Reply, str | None]:
        reply = await run.wire.call(
            "POST", "api/v2/jobs", json=body, bearer=True, idempotency_key=key
        )
        job = reply.dict().get("id")
        if reply.status >= 300 or not isinstance(job, str):
            return reply, None
        if job not in run.jobs:
            run.jobs.append(job)
        return reply, job

    first, job = await submit()
    run.findings.see("v2_submission", "accepted" if job else first.outcome())
    if job is None:
        for point in ("v2_repeat", "v2_status", "v2_outputs"):
            run.findings.see(point, "none", "The job was not accepted.")
        return
    second, again = await submit()
    repeated = "the same job" if again == job else "another job" if again else str(second.status)
    run.findings.see("v2_repeat", repeated, second.code())
    ended: dict[str, Any] = {}
    deadline = time.monotonic() + JOB
    while time.monotonic() < deadline and ended.get("status") in (None, "queued", "running"):
        ended = (await run.wire.call("GET", f"api/v2/jobs/{job}", bearer=True)).dict()
        await asyncio.sleep(LOOK)
    run.findings.see("v2_status", str(ended.get("status") or "none"))
    outputs = ended.get("outputs")
    shape = "a list" if isinstance(outputs, list) else "by node" if outputs else "none"
    run.findings.see("v2_outputs", shape)


# --- limits --------------------------------------------------------------------------------


async def burst(wire: Wire, findings: Findings) -> None:
    """Observe whether many reads are throttled, and the answer to a throttled one. Skipped while
    the account has jobs, which throttling would delay."""
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def read() -> None:
        async with turn:
            if wire.throttled is None:
                await wire.call("GET", "api/user", repeats=False)

    points = ("burst", "throttle_form", "throttle_code", "throttle_retry_after")
    before = wire.throttled is not None
    if before:
        findings.miss(points[:1], "Reads were throttled before.")
    elif await _queued(wire):
        findings.miss(points, "The account has jobs.")
        return
    else:
        await asyncio.gather(*(read() for _ in range(_BURST)))
        findings.see("burst", "throttled" if wire.throttled else "answered")
    if wire.throttled is None:
        findings.miss(points[1:], "Nothing was throttled.")
        return
    body = wire.throttled.dict()
    kept = [name for name in ("error", "message") if name in body]
    findings.see("throttle_form", kept[0] if kept else "text" if wire.throttled.body else "empty")
    findings.see("throttle_code", wire.throttled.code() or "none")
    after = wire.throttled.headers.get("Retry-After", "")
    findings.see("throttle_retry_after", f"{after} s" if after.isdigit() else "none")


async def idle(wire: Wire, findings: Findings, seconds: float) -> None:
    """Observe whether a socket without a ping is closed."""
    socket = await wire.socket_again(heartbeat=None)
    try:
        begun = time.monotonic()
        closed = await socket.closes(seconds)
        note = f"After {time.monotonic() - begun:.0f} s." if closed else ""
        findings.see("socket_idle", "closed" if closed else "open", note)
    finally:
        await socket.close()


# --- the end -------------------------------------------------------------------------------


async def clean_up(run: ProbeRun) -> None:
    """Cancel what continues, and delete the jobs with their files."""
    for job in run.jobs:
        await run.cancel(job)
    remaining = run.jobs
    if run.jobs:
        reply = await run.wire.call("POST", "api/history", json={"delete": run.jobs[:1]})
        if reply.status == 200:
            run.findings.see("history_delete", "object" if reply.dict() or reply.body else "empty")
            remaining = run.jobs[1:]
    for job in remaining:
        await run.reaches(job, ("completed", "failed", "cancelled"), 2.0)
    for job in run.jobs:
        await run.wire.call("DELETE", f"api/jobs/{job}")
