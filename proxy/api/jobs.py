"""`/api/jobs`: the member's jobs in all states, in the form of ComfyUI since 0.26."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.prompt import is_job_id
from proxy.api.services import member_of, of
from proxy.jobs.listing import STATUSES, JobQuery
from proxy.translate.errors import LocalError


class BadQueryError(Exception):
    """A query value that ComfyUI refuses; the text is its own."""


async def list_jobs(request: web.Request) -> web.Response:
    """Jobs filtered, sorted and in pages."""
    try:
        query = parse(request.query)
    except BadQueryError as error:
        return answers.job_error(str(error))
    return answers.json(of(request).jobs.list_jobs(member_of(request), query))


async def get_job(request: web.Request) -> web.Response:
    """One job with its outputs and its workflow."""
    job = of(request).jobs.job(member_of(request), request.match_info["job_id"])
    return answers.job_error("Job not found", 404) if job is None else answers.json(job)


async def cancel_job(request: web.Request) -> web.Response:
    """Cancel one job; an unknown or ended one is no error."""
    job_id = request.match_info["job_id"]
    cancelled = await of(request).jobs.cancel(member_of(request), job_id)
    if cancelled:
        of(request).books.note(request, "cancel", job=job_id)
    return answers.json({"cancelled": cancelled})


async def cancel_jobs(request: web.Request) -> web.Response:
    """Cancel some jobs; says whether any was there to cancel."""
    try:
        body = await bodies.read_json(request)
    except LocalError:
        return answers.job_error("Request body must be valid JSON")
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return answers.job_error("job_ids must be a list")
    invalid = [one if isinstance(one, str) else repr(one) for one in job_ids if not is_job_id(one)]
    if invalid:
        return answers.job_error("job_ids contains invalid id(s)", invalid_ids=invalid)
    jobs, member = of(request).jobs, member_of(request)
    cancelled = False
    for job_id in dict.fromkeys(job_ids):
        if await jobs.cancel(member, job_id):
            of(request).books.note(request, "cancel", job=job_id)
            cancelled = True
    return answers.json({"cancelled": cancelled})


def parse(query: Mapping[str, str]) -> JobQuery:
    """Read the query of `GET /api/jobs`. Raises `BadQueryError` with ComfyUI's words."""
    wanted = [part.strip().lower() for part in query.get("status", "").split(",") if part.strip()]
    invalid = [status for status in wanted if status not in STATUSES]
    if invalid:
        raise BadQueryError(
            f"Invalid status value(s): {', '.join(invalid)}. Valid values: {', '.join(STATUSES)}"
        )
    sort_by = query.get("sort_by", "created_at").lower()
    if sort_by not in ("created_at", "execution_duration"):
        raise BadQueryError("sort_by must be 'created_at' or 'execution_duration'")
    sort_order = query.get("sort_order", "desc").lower()
    if sort_order not in ("asc", "desc"):
        raise BadQueryError("sort_order must be 'asc' or 'desc'")
    limit = _integer(query, "limit")
    if limit is not None and limit <= 0:
        raise BadQueryError("limit must be a positive integer")
    return JobQuery(
        statuses=frozenset(wanted) or None,
        workflow_id=query.get("workflow_id") or None,
        sort_by=sort_by,
        descending=sort_order == "desc",
        limit=limit,
        offset=max(0, _integer(query, "offset") or 0),
    )


def _integer(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        return int(query[name])
    except ValueError:
        raise BadQueryError(f"{name} must be an integer") from None
