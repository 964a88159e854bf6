"""What Comfy Cloud has beyond a local ComfyUI, for programs that were written for it.

Everything is answered from the member's own jobs. The `X-API-Key` and the `token` that such a
program sends belong to nobody here: they are neither looked at nor passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.api import bodies
from proxy.api.connections import member_of, of
from proxy.jobs.service import JobQuery
from proxy.translate import as_cloud, codec
from proxy.translate.as_cloud import OutputFile
from proxy.translate.assets import Asset
from proxy.translate.errors import Kind, LocalError
from proxy.translate.names import Place

#: Items of a page of assets: how many the cloud gives without a request, and at most.
ASSETS = 20
MOST_ASSETS = 500

_ENDED = frozenset({"completed", "failed", "cancelled"})


#: What the cloud calls it.
_CODES: dict[Kind, str] = {"invalid": "BAD_REQUEST", "not_found": "NOT_FOUND"}


class FlatError(LocalError):
    """A refusal of these routes: `{"code", "message"}`."""

    def __init__(self, message: str, *, kind: Kind = "invalid") -> None:
        super().__init__(_CODES[kind], message, kind=kind)

    def body(self) -> dict[str, Any]:
        """The cloud's flat form."""
        return {"code": self.type, "message": self.message}


async def get_user(request: web.Request) -> web.Response:
    """Who is asking: `{"id": …, "status": "active"}`."""
    return bodies.json({"id": member_of(request), "status": "active"})


async def get_status(request: web.Request) -> web.Response:
    """The state of one job, in one of five words."""
    return bodies.json(as_cloud.status(await _job(request)))


async def list_history(request: web.Request) -> web.Response:
    """Ended jobs, the newest first: all, or those that `max_items` and `offset` ask for."""
    limit = _whole(request.query, "max_items")
    offset = _whole(request.query, "offset") or 0
    if limit == 0:
        return bodies.json({"history": []})
    jobs, member = of(request).jobs, member_of(request)
    query = JobQuery(statuses=_ENDED, limit=limit, offset=offset)
    listed = (await jobs.list_jobs(member, query))["jobs"]
    entries = [(job, await jobs.history.entry_json(member, job["id"])) for job in listed]
    return bodies.ready(await asyncio.to_thread(_history, entries))


def _history(listed: list[tuple[dict[str, Any], bytes]]) -> bytes:
    items = [
        as_cloud.history_item(job, entry)
        for job, data in listed
        for entry in codec.loads(data).values()
    ]
    return codec.dump_bytes({"history": items})


async def get_history(request: web.Request) -> web.Response:
    """One ended job by its id; 404 until it has ended."""
    prompt_id = request.match_info["prompt_id"]
    data = await of(request).jobs.history.entry_json(member_of(request), prompt_id)
    found = codec.loads(data)
    if not found:
        raise FlatError("History not found", kind="not_found")
    return bodies.json({key: as_cloud.history_detail(entry) for key, entry in found.items()})


async def list_assets(request: web.Request) -> web.Response:
    """The files that a job made, in pages of `limit` items from `offset`."""
    limit = _whole(request.query, "limit")
    offset = _whole(request.query, "offset") or 0
    limit = ASSETS if limit is None else limit
    if not 1 <= limit <= MOST_ASSETS:
        raise FlatError(f"limit must be between 1 and {MOST_ASSETS}")
    job = await _job(request)
    member, assets = member_of(request), of(request).assets
    known = {} if assets is None else await assets.of_job(member, job["id"])
    found = [
        asset
        for file in as_cloud.output_files(job.get("outputs", {}))
        if (asset := await _asset(request, file, known)) is not None
    ]
    page = found[offset : offset + limit]
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(found),
        "has_more": offset + len(page) < len(found),
    }
    return bodies.json({"job_id": job["id"], "assets": page, "pagination": pagination})


async def _asset(
    request: web.Request, file: OutputFile, known: Mapping[Place, Asset]
) -> dict[str, Any] | None:
    files = of(request).files
    record = await files.find(member_of(request), file.type, file.subfolder, file.filename)
    if record is None:
        return None
    asset = known.get(record.place)
    return as_cloud.asset(
        request.match_info["job_id"],
        file,
        hash_=record.hash if asset is None else asset.hash,
        size=record.size if asset is None else asset.size,
        media_type=record.media_type,
        modified=record.modified,
    )


async def _job(request: web.Request) -> dict[str, Any]:
    job = await of(request).jobs.job(member_of(request), request.match_info["job_id"])
    if job is None:
        raise FlatError("Job not found", kind="not_found")
    return job


def _whole(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        value = int(query[name])
    except ValueError:
        value = -1
    if value < 0:
        raise FlatError(f"{name} must be a whole number")
    return value
