"""The newer interface, `/api/v2`: the key as Bearer, and submissions with `Idempotency-Key`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from proxy.simulator import outputs
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer
from proxy.simulator.errors import Refusal, not_found
from proxy.simulator.jobs import SimulatedJob, items_of
from proxy.simulator.validation import validate

#: Friendly statuses in the words of this interface.
_STATUSES = {
    "pending": "queued",
    "in_progress": "running",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "canceled",
}


class SubmittedGraph(msgspec.Struct):
    """The body of a submission."""

    workflow: dict[str, Any]
    extra_data: dict[str, Any] | None = None


async def submit(call: Call) -> web.Response:
    """Answer `POST /api/v2/jobs`: a key that was used before is refused."""
    _enter(call)
    request = await call.json(SubmittedGraph, call.switches.max_workflow_bytes)
    key = call.request.headers.get("Idempotency-Key")
    if key is not None and key in call.account.idempotency_keys:
        raise _error(422, "idempotency_key_reused", "This Idempotency-Key was used before.")
    library = call.account.library
    found = validate(
        request.workflow,
        catalog=call.world.catalog_of(call.account),
        targets=None,
        files=lambda name: outputs.is_found(library, name, call.switches),
    )
    if found.error is not None:
        raise _error(422, "invalid_workflow", str(found.error["message"]))
    if key is not None:
        call.account.idempotency_keys.add(key)
    call.account.submitted += 1
    job = SimulatedJob(
        request.workflow, request.extra_data or {}, found.outputs, call.account.submitted
    )
    call.queue.put(job)
    return answer(_shown(job), 201)


async def detail(call: Call) -> web.Response:
    """Answer `GET /api/v2/jobs/{id}`."""
    _enter(call)
    return answer(_shown(_job(call)))


async def cancel(call: Call) -> web.Response:
    """Answer `POST /api/v2/jobs/{id}/cancel`."""
    _enter(call)
    job = _job(call)
    call.queue.cancel(job)
    return answer(_shown(job))


async def by_hash(call: Call) -> web.Response:
    """Answer `HEAD /api/v2/assets/by-hash/{hash}`: whether a content is there."""
    _enter(call)
    wanted = call.path("hash").removeprefix("blake3:")
    known = any(wanted in asset.cloud_name for asset in call.account.library)
    return web.Response(status=200 if known else 404)


def _enter(call: Call) -> None:
    if not call.switches.v2:
        raise not_found()
    if "Authorization" not in call.request.headers or "X-API-Key" in call.request.headers:
        raise _error(401, "unauthorized", "Send the key as Authorization: Bearer.")


def _job(call: Call) -> SimulatedJob:
    job = call.account.jobs.get(call.path("id"))
    if job is None:
        raise _error(404, "not_found", "There is no such job.")
    return job


def _shown(job: SimulatedJob) -> dict[str, Any]:
    files = [
        {"name": item.get("filename"), "type": item.get("type")}
        for ui in job.outputs.values()
        for _, _, item in items_of(ui)
    ]
    shown: dict[str, Any] = {"id": job.id, "status": _STATUSES[job.status], "outputs": files}
    if job.error is not None:
        shown["error"] = {"code": "execution_failed", "message": str(job.error)}
    return shown


def _error(status: int, code: str, message: str) -> Refusal:
    return Refusal(status, {"error": {"code": code, "message": message, "details": {}}})


ROUTES = [
    SimulatedRoute("POST", "/api/v2/jobs", submit, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/v2/jobs/{id}", detail, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/v2/jobs/{id}/cancel", cancel, RouteAccess.PAID),
    SimulatedRoute("HEAD", "/api/v2/assets/by-hash/{hash}", by_hash, RouteAccess.PAID),
]
