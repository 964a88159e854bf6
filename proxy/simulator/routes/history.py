"""`/api/history_v2`, and `POST /api/history`; the local `GET /history` does not exist."""

from __future__ import annotations

import msgspec
from aiohttp import web

from proxy.simulator import answers
from proxy.simulator.call import Call, SimulatedRoute, answer, bare
from proxy.simulator.errors import not_found
from proxy.simulator.jobs import SimulatedJob


class HistoryManage(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/history`."""

    delete: list[str] = []
    clear: bool = False


async def show_all(call: Call) -> web.Response:
    """Answer `GET /api/history_v2`: a list, newest first."""
    jobs = [job for job in reversed(call.account.jobs.values()) if _recorded(job)]
    offset = max(0, call.number("offset", 0))
    jobs = jobs[offset : offset + max(0, call.number("max_items", len(jobs)))]
    return answer({"history": [answers.history_entry(job, call.switches) for job in jobs]})


async def show(call: Call) -> web.Response:
    """Answer `GET /api/history_v2/{id}`: 404 until the job has ended and its record exists."""
    job = call.account.jobs.get(call.path("id"))
    if job is None or not _recorded(job):
        raise not_found("no history for this prompt")
    return answer({job.id: answers.history_detail(job, call.switches)})


async def manage(call: Call) -> web.Response:
    """Answer `POST /api/history`: forget jobs that have ended."""
    request = await call.json(HistoryManage)
    jobs = call.account.jobs
    for job_id in [*jobs] if request.clear else request.delete:
        if job_id in jobs and jobs[job_id].terminal:
            del jobs[job_id]
    return bare(call.switches)


def _recorded(job: SimulatedJob) -> bool:
    return job.terminal and not job.outputs_hidden


ROUTES = [
    SimulatedRoute("GET", "/api/history_v2", show_all),
    SimulatedRoute("GET", "/api/history_v2/{id}", show),
    SimulatedRoute("POST", "/api/history", manage),
]
