"""Routes that only Comfy Cloud has, for programs that were written for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from proxy.api import bodies, request_bodies
from proxy.api.holding import hold, in_turn
from proxy.api.jobs import examined
from proxy.api.keys import ASSETS, FILES, JOBS
from proxy.api.requests import member_of
from proxy.api.sending import send_json
from proxy.jobs.models import JobRecord
from proxy.jobs.service import JobQuery
from proxy.translate import as_cloud, codec
from proxy.translate.as_cloud import OutputFile
from proxy.translate.assets import Asset
from proxy.translate.errors import Kind, LocalError
from proxy.translate.names import Place

# Everything is answered from the member's own jobs. The `X-API-Key` and the `token` of such a
# program have no meaning here: they are neither read nor passed on.

#: Default and maximum number of items of a page of assets, as in the cloud.
DEFAULT_LIMIT, MAX_LIMIT = 20, 500

_ENDED = frozenset({"completed", "failed", "cancelled"})

#: The cloud's codes of errors.
_CODES: dict[Kind, str] = {"invalid": "BAD_REQUEST", "not_found": "NOT_FOUND"}


class FlatError(LocalError):
    """Raised for a refusal of these routes, whose body is `{"code", "message"}`."""

    def __init__(self, message: str, *, kind: Kind = "invalid") -> None:
        super().__init__(_CODES[kind], message, kind=kind)

    def body(self) -> dict[str, Any]:
        """Return the cloud's flat form."""
        return {"code": self.type, "message": self.message}


async def get_cloud_user(request: web.Request) -> web.Response:
    """Return the member: `{"id": …, "status": "active"}`."""
    return bodies.json({"id": member_of(request), "status": "active"})


async def get_cloud_status(request: web.Request) -> web.Response:
    """Return the state of a job, in one of the cloud's five words."""
    record = await _cloud_job(request)
    return bodies.json(await examined(request, record, _cloud_status))


def _cloud_status(record: JobRecord) -> dict[str, Any]:
    return as_cloud.status(record.described())


async def list_cloud_history(request: web.Request) -> web.StreamResponse:
    """Return ended jobs, the newest first: all, or those of `max_items` and `offset`."""
    limit = _whole(request.query, "max_items")
    offset = _whole(request.query, "offset") or 0
    if limit == 0:
        return bodies.json({"history": []})
    jobs, member = request.app[JOBS], member_of(request)
    query = JobQuery(statuses=_ENDED, limit=limit, offset=offset)
    listed = (await jobs.list_jobs(member, query))["jobs"]
    return await send_json(request, _cloud_history(request, listed))


#: Approximate bytes of a parsed entry for a byte of its JSON.
_PARSED_BYTES = 4


async def _cloud_history(
    request: web.Request, listed: list[dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Yield the items as JSON, of which one at a time is in memory."""
    member, held = member_of(request), hold(request, "answer")
    lead = b'{"history": ['
    for job in listed:
        data = await request.app[JOBS].history.entry_json(member, job["id"])
        held.resize(_PARSED_BYTES * len(data))
        work = partial(_cloud_item, job, data)
        item = await in_turn(request, work)
        held.resize(len(item))
        if item:
            yield lead + item
            lead = b", "
    yield b"]}" if lead == b", " else lead + b"]}"


def _cloud_item(job: dict[str, Any], data: bytes) -> bytes:
    """Return an item as JSON, empty for a deleted job."""
    entries = codec.loads(data).values()
    return b", ".join(codec.dump_bytes(as_cloud.history_item(job, entry)) for entry in entries)


async def get_cloud_history(request: web.Request) -> web.Response:
    """Return an ended job by its id; 404 until it has ended."""
    prompt_id = request.match_info["prompt_id"]
    data = await request.app[JOBS].history.entry_json(member_of(request), prompt_id)
    hold(request, "answer").grow(_PARSED_BYTES * len(data))
    found = await in_turn(request, partial(_cloud_detail, data))
    if not found:
        raise FlatError("History not found", kind="not_found")
    return bodies.ready(found)


def _cloud_detail(data: bytes) -> bytes:
    """Return the answer as JSON, empty if there is no entry."""
    found = {key: as_cloud.history_detail(entry) for key, entry in codec.loads(data).items()}
    return codec.dump_bytes(found) if found else b""


async def list_cloud_assets(request: web.Request) -> web.Response:
    """Return the files of a job, in pages of `limit` items from `offset`."""
    limit = _whole(request.query, "limit")
    offset = _whole(request.query, "offset") or 0
    limit = DEFAULT_LIMIT if limit is None else limit
    if not 1 <= limit <= MAX_LIMIT:
        raise FlatError(f"limit must be between 1 and {MAX_LIMIT}")
    record = await _cloud_job(request)
    files = await examined(request, record, _cloud_files)
    member, assets, id_ = member_of(request), request.app[ASSETS], request.match_info["job_id"]
    known = await assets.of_job(member, id_)
    found = [
        asset for file in files if (asset := await _cloud_asset(request, file, known)) is not None
    ]
    page = found[offset : offset + limit]
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(found),
        "has_more": offset + len(page) < len(found),
    }
    return bodies.json({"job_id": id_, "assets": page, "pagination": pagination})


def _cloud_files(record: JobRecord) -> list[OutputFile]:
    return list(as_cloud.output_files(record.outputs()))


async def _cloud_asset(
    request: web.Request, file: OutputFile, known: Mapping[Place, Asset]
) -> dict[str, Any] | None:
    files = request.app[FILES]
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


async def _cloud_job(request: web.Request) -> JobRecord:
    record = await request.app[JOBS].job(member_of(request), request.match_info["job_id"])
    if record is None:
        raise FlatError("Job not found", kind="not_found")
    return record


def _whole(query: Mapping[str, str], name: str) -> int | None:
    refusal = FlatError(f"{name} must be a whole number")
    value = request_bodies.query_integer(query, name, lambda _: refusal)
    if value is not None and value < 0:
        raise refusal
    return value
