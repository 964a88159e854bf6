"""`/api/jobs*`, and the older single status."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec
from aiohttp import web

from proxy.simulator import answers, media
from proxy.simulator.call import Call, SimulatedRoute, answer, is_uuid
from proxy.simulator.errors import bad_request, flat, not_found
from proxy.simulator.jobs import SimulatedJob, items_of

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
OUTPUT_TYPES = ("image", "video", "audio", "3d")


class JobsCancel(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/jobs/cancel`."""

    job_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]


async def show_all(call: Call) -> web.Response:
    """Answer `GET /api/jobs`."""
    query = call.request.query
    sort_by = call.choice("sort_by", ("create_time", "execution_time"))
    descending = call.choice("sort_order", ("desc", "asc")) == "desc"
    limit = call.number("limit", 100, 1, 1000)
    offset = call.number("offset", 0, 0)
    jobs = _sorted(_filtered(call), sort_by, descending)
    total = len(jobs)
    after = query.get("after")
    if after is not None:
        if sort_by != "create_time":
            raise bad_request("after needs sort_by=create_time")
        place = _place(after)
        jobs = [job for job in jobs if _before(place, job) is descending and _key(job) != place]
        offset = total = 0
    page = jobs[offset : offset + limit]
    pagination: dict[str, Any] = {
        "offset": offset,
        "limit": limit,
        "total": total,
        "has_more": offset + limit < len(jobs),
    }
    if pagination["has_more"] and sort_by == "create_time":
        pagination["next_cursor"] = _cursor(page[-1])
    entries = [answers.entry(job, call.account, call.switches) for job in page]
    return answer({"jobs": entries, "pagination": pagination})


async def show(call: Call) -> web.Response:
    """Answer `GET /api/jobs/{id}`."""
    job = call.job()
    return answer(answers.detail(job, call.account, call.queue, call.switches))


async def show_status(call: Call) -> web.Response:
    """Answer `GET /api/job/{id}/status`."""
    return answer(answers.status(call.job(), call.switches))


async def show_assets(call: Call) -> web.Response:
    """Answer `GET /api/jobs/{id}/assets`."""
    job = call.job()
    limit = call.number("limit", 20, 1, 500)
    offset = call.number("offset", 0, 0)
    assets = [asset for asset in job.assets if call.account.library.get(asset.id)]
    shown = [
        {
            "id": asset.id,
            "name": asset.name,
            "hash": f"blake3:{asset.digest}",
            "size": asset.size,
            "mime_type": asset.media_type,
            "preview_url": None,
            "created_at": asset.created_at,
            "node_id": asset.node_id,
            "output_key": asset.output_key,
            "output_index": asset.output_index,
        }
        for asset in assets[offset : offset + limit]
    ]
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(assets),
        "has_more": offset + limit < len(assets),
    }
    return answer({"job_id": job.id, "assets": shown, "pagination": pagination})


async def cancel(call: Call) -> web.Response:
    """Answer `POST /api/jobs/{id}/cancel`; a foreign job is as unknown as any other."""
    job_id = call.path("id")
    if not is_uuid(job_id):
        raise bad_request(f"{job_id!r} is not a UUID")
    job = call.account.jobs.get(job_id)
    if job is None:
        raise not_found("job not found")
    return answer({"cancelled": call.queue.cancel(job)})


async def cancel_several(call: Call) -> web.Response:
    """Answer `POST /api/jobs/cancel`: all of them must be known, or nothing is done."""
    request = await call.json(JobsCancel)
    for job_id in request.job_ids:
        if not is_uuid(job_id):
            raise bad_request(f"{job_id!r} is not a UUID")
    jobs = [call.account.jobs.get(job_id) for job_id in request.job_ids]
    if None in jobs:
        raise not_found("at least one job was not found; nothing was cancelled")
    return answer({"cancelled": [job.id for job in jobs if job and call.queue.cancel(job)]})


async def delete(call: Call) -> web.Response:
    """Answer `DELETE /api/jobs/{id}`: the job and its assets; nothing while it has not ended."""
    job = call.job()
    if not job.terminal:
        return web.Response(status=204)
    account = call.account
    names = {asset.cloud_name for asset in job.assets}
    for other in account.jobs.values():
        if not other.terminal and names & _strings(other.graph):
            raise flat(409, "ASSET_IN_USE", "an asset of the job is used by another job")
    del account.jobs[job.id]
    for asset in job.assets:
        if account.library.remove(asset) and not _held(call, asset.cloud_name):
            call.world.storage.remove(asset.cloud_name)
    return web.Response(status=204)


def _held(call: Call, cloud_name: str) -> bool:
    return any(tenant.account.library.newest(cloud_name) for tenant in call.world.tenants)


def _strings(graph: dict[str, Any]) -> set[str]:
    """Return the strings among the inputs of a graph."""
    return {
        value.partition(" [")[0]
        for node in graph.values()
        for value in node.get("inputs", {}).values()
        if isinstance(value, str)
    }


def _filtered(call: Call) -> list[SimulatedJob]:
    query = call.request.query
    jobs = list(call.account.jobs.values())
    if "status" in query:
        wanted = {status.strip() for status in query["status"].split(",")}
        if not wanted <= set(STATUSES):
            raise bad_request(f"status must be of {', '.join(STATUSES)}")
        jobs = [job for job in jobs if job.status in wanted]
    if "workflow_id" in query:
        jobs = [job for job in jobs if job.workflow_id == query["workflow_id"]]
    if "output_type" in query:
        kind = call.choice("output_type", OUTPUT_TYPES)
        jobs = [job for job in jobs if job.status == "completed" and kind in _kinds(job)]
    return jobs


def _kinds(job: SimulatedJob) -> set[str]:
    return {
        media.family(item["filename"].rpartition(".")[2])
        for ui in job.outputs.values()
        for _, _, item in items_of(ui)
    }


def _sorted(jobs: list[SimulatedJob], sort_by: str, descending: bool) -> list[SimulatedJob]:
    if sort_by == "create_time":
        return sorted(jobs, key=_key, reverse=descending)
    return sorted(jobs, key=_duration, reverse=descending)


def _key(job: SimulatedJob) -> tuple[int, int]:
    return (job.created, job.number)


def _duration(job: SimulatedJob) -> int:
    return job.ended - job.started if job.ended and job.started else 0


def _before(place: tuple[int, int], job: SimulatedJob) -> bool:
    return _key(job) < place


def _cursor(job: SimulatedJob) -> str:
    return base64.urlsafe_b64encode(f"{job.created}:{job.number}".encode()).decode()


def _place(cursor: str) -> tuple[int, int]:
    try:
        created, number = base64.urlsafe_b64decode(cursor).decode().split(":")
        return (int(created), int(number))
    except ValueError:
        raise bad_request("the cursor is not valid") from None


ROUTES = [
    SimulatedRoute("GET", "/api/jobs", show_all),
    SimulatedRoute("POST", "/api/jobs/cancel", cancel_several),
    SimulatedRoute("GET", "/api/jobs/{id}", show),
    SimulatedRoute("DELETE", "/api/jobs/{id}", delete),
    SimulatedRoute("POST", "/api/jobs/{id}/cancel", cancel),
    SimulatedRoute("GET", "/api/jobs/{id}/assets", show_assets),
    SimulatedRoute("GET", "/api/job/{id}/status", show_status),
]
