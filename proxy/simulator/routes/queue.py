"""`/api/queue` and `/api/interrupt`."""

from __future__ import annotations

import msgspec
from aiohttp import web

from proxy.simulator import answers
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer, bare, is_uuid
from proxy.simulator.errors import Refusal, not_found
from proxy.simulator.jobs import SimulatedJob
from proxy.translate import codec

MAX_INTERRUPT_BODY = 64 * 1024


class QueueManage(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/queue`."""

    delete: list[str] = []
    clear: bool = False


async def show(call: Call) -> web.Response:
    """Answer `GET /api/queue`, oldest first."""
    jobs = list(call.account.jobs.values())
    running = [job for job in jobs if job.status == "in_progress"]
    pending = [job for job in jobs if job.status == "pending"]
    numbers = {job: place for place, job in enumerate([*running, *pending], 1)}
    return answer(
        {
            "queue_running": [
                answers.queue_tuple(numbers[job], job, call.switches) for job in running
            ],
            "queue_pending": [
                answers.queue_tuple(numbers[job], job, call.switches) for job in pending
            ],
        }
    )


async def manage(call: Call) -> web.Response:
    """Answer `POST /api/queue`: `delete` cancels running jobs too, `clear` the pending ones."""
    request = await call.json(QueueManage)
    jobs = call.account.jobs
    named = [jobs[job_id] for job_id in request.delete if job_id in jobs]
    if not call.switches.queue_delete_running:
        named = [job for job in named if job.status == "pending"]
    if request.clear:
        named += [job for job in jobs.values() if job.status == "pending"]
    deleted = [job.id for job in named if call.queue.cancel(job)]
    return answer({"deleted": deleted, "cleared": request.clear})


async def interrupt(call: Call) -> web.Response:
    """Answer `POST /api/interrupt`, in the scope that the switch says."""
    named = await _named(call)
    scope = call.switches.interrupt_scope
    if scope == "one" and named is not None:
        job = call.account.jobs.get(named) if is_uuid(named) else None
        if job is None:
            raise not_found("job not found")
        call.queue.cancel(job)
        return bare(call.switches)
    jobs = call.account.jobs.values()
    running = [job for job in jobs if job.status == "in_progress" and not job.cancelling]
    chosen: list[SimulatedJob] = running if scope == "all_running" else running[:1]
    if scope == "one" and not chosen:
        chosen = call.queue.waiting[:1]
    for job in chosen:
        call.queue.cancel(job)
    return bare(call.switches)


async def _named(call: Call) -> str | None:
    """Return the job in the body, which may be anything."""
    try:
        body = codec.loads(await call.body(MAX_INTERRUPT_BODY))
    except (ValueError, Refusal):
        return None
    named = body.get("prompt_id") if isinstance(body, dict) else None
    return named if isinstance(named, str) and named else None


ROUTES = [
    SimulatedRoute("GET", "/api/queue", show, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/queue", manage, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/interrupt", interrupt, RouteAccess.PAID),
]
