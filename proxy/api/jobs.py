"""Routes of jobs: `/prompt`, `/queue`, `/interrupt`, `/history`, and `/api/jobs` (ComfyUI 0.26)."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog
from aiohttp import web
from msgspec.structs import replace

from proxy.api import bodies, request_bodies
from proxy.api.answer_headers import prepare
from proxy.api.holding import hold, in_turn
from proxy.api.keys import JOBS
from proxy.api.middleware import record_action
from proxy.api.requests import connection_of, member_of, submitter_of, token_of
from proxy.api.sending import send_json
from proxy.edge.addressing import AGAIN, PROMPT_ID
from proxy.jobs.models import JobRecord, JobRequest
from proxy.jobs.service import STATUSES, JobQuery
from proxy.members import tokens
from proxy.translate import INVALID_PROMPT_ID, USAGE_SOURCE, codec, editor, workflow_metadata
from proxy.translate.errors import LocalError, PlainError
from proxy.translate.reading import field_of
from proxy.translate.trace_context import TRACEPARENT, trace_headers, trace_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The client id of nobody: a socket without an id gets one.
UNKNOWN_CLIENT = ""


async def get_prompt(request: web.Request) -> web.Response:
    """Return how many jobs wait or run."""
    remaining = request.app[JOBS].queue_remaining(member_of(request))
    return bodies.json({"exec_info": {"queue_remaining": remaining}})


async def post_prompt(request: web.Request) -> web.StreamResponse:
    """Submit a job. Its messages are sent after the answer."""
    submissions, member = request.app[JOBS].submissions, member_of(request)
    body = await request_bodies.read_json(request)
    usage_source = request.headers.get(USAGE_SOURCE)
    wanted = parse_prompt(
        body,
        usage_source,
        submitter=submitter_of(request),
        token=token_of(request),
        trace=trace_of(request.headers.get(TRACEPARENT)),
    )
    wanted, again = passed_on(request, wanted)
    async with submissions.submitted(member, wanted, again=again) as accepted:
        try:
            answer = bodies.json(accepted)
            await prepare(request, answer)
            await answer.write_eof()
            return answer
        finally:
            record_action(request, "submit", job=accepted["prompt_id"])
            about = {"job": accepted["prompt_id"], "number": accepted["number"]}
            log.info("job_accepted", **about, **trace_headers(wanted.trace))


def passed_on(request: web.Request, wanted: JobRequest) -> tuple[JobRequest, bool]:
    """Return a submission with the id that a standby gave it, unless it has one, and whether it may
    have been sent to another leader before."""
    if not connection_of(request).passes_on:
        return wanted, False
    given = request.headers.get(PROMPT_ID)
    if wanted.prompt_id is None and given is not None and is_job_id(given):
        wanted = replace(wanted, prompt_id=given)
    return wanted, AGAIN in request.headers


def parse_prompt(
    body: object,
    usage_source: str | None = None,
    *,
    submitter: str = "",
    token: str = "",
    trace: str = "",
) -> JobRequest:
    """Check the body of `POST /prompt` as the newest ComfyUI does. Raises `LocalError` (400).

    If ComfyUI would answer 500 or crash (a `number` that is not one, a list as graph or as
    `client_id`), the error has a sentence. `usage_source` is the header `Comfy-Usage-Source`.
    A member's token as the key for partner nodes is left out: it is not for the cloud.
    """
    if not isinstance(body, dict) or "prompt" not in body:
        raise _no_prompt(body)
    number = _number(body["number"]) if "number" in body else None
    graph = _graph(body["prompt"])
    prompt_id, targets = body.get("prompt_id"), body.get("partial_execution_targets")
    if prompt_id is not None and not is_job_id(prompt_id):
        message, details = INVALID_PROMPT_ID
        raise LocalError("invalid_prompt_id", message, details=details)
    if targets is not None:
        _check_targets(targets)
    extra_data = body.get("extra_data", {})
    if not isinstance(extra_data, dict):
        raise _wrong("invalid_extra_data", "extra_data", "an object", extra_data)
    extra_data = {**extra_data}
    if workflow_metadata.FIELD in body or workflow_metadata.FIELD in extra_data:
        extra_data = workflow_metadata.placed(extra_data, body)
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    if usage_source:
        extra_data.setdefault("comfy_usage_source", usage_source)
    for key in codec.CREDENTIAL_KEYS & extra_data.keys():
        if tokens.is_token(extra_data[key]):  # from clients with one setting for both keys
            del extra_data[key]
    return JobRequest(
        graph=graph,
        client_id=_client_id(extra_data.get("client_id")),
        prompt_id=prompt_id,
        number=number,
        front=bool(body.get("front")),
        extra_data=extra_data,
        targets=targets,
        submitter=submitter,
        token=token,
        trace=trace,
    )


def _no_prompt(body: object) -> LocalError:
    if editor.is_editors(body):
        return _not_api_format()
    if isinstance(body, dict) or body == []:
        return LocalError("no_prompt", "No prompt provided", details="No prompt provided")
    return _wrong("invalid_body", "The request body", "a JSON object", body)


def is_job_id(value: object) -> bool:
    """Return whether a value is a job id: a UUID in canonical lower case (ComfyUI since 0.25)."""
    if not isinstance(value, str):
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _number(value: object) -> float:
    if isinstance(value, int | float | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise _wrong("invalid_number", "number", "a finite number", value)


def _not_api_format() -> LocalError:
    return LocalError(
        "invalid_prompt",
        "This is a workflow as ComfyUI's editor saves it, and not a prompt in API format. Export "
        "it with Workflow > Export (API); or send it to POST /workflow/convert, and the answer as "
        "`prompt`; or use `comfy-cloud-proxy run`, which takes both.",
    )


def _graph(graph: object) -> dict[str, Any]:
    if not isinstance(graph, dict):
        raise _wrong("invalid_prompt", "prompt", "an object of nodes in API format", graph)
    if editor.is_editors(graph):
        raise _not_api_format()
    for node_id, node in graph.items():
        if not isinstance(node, dict):
            raise LocalError(
                "invalid_prompt",
                f"A node of the prompt must be an object, not {request_bodies.kind(node)}.",
                details=f"Node ID '#{node_id}'",
            )
    return graph


def _check_targets(targets: object) -> None:
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        what = "a list of node ids (strings)"
        name = "partial_execution_targets"
        raise _wrong("invalid_partial_execution_targets", name, what, targets)
    if not targets:
        raise LocalError("prompt_no_outputs", "Prompt has no outputs")


def _client_id(value: object) -> str | None:
    """Return the client that gets the events. A number is accepted and matches none, as in
    ComfyUI."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return UNKNOWN_CLIENT
    raise _wrong("invalid_client_id", "client_id", "a string", value)


def _wrong(type_: str, name: str, expected: str, value: object) -> LocalError:
    shown = request_bodies.kind(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
    return LocalError(type_, f"{name} must be {expected}.", details=f"It is {shown}.")


async def get_queue(request: web.Request) -> web.StreamResponse:
    """Return the running and the waiting jobs."""
    body = await request.app[JOBS].queue_json(member_of(request))
    return bodies.ready(body) if isinstance(body, bytes) else await send_json(request, body)


async def post_queue(request: web.Request) -> web.Response:
    """Take waiting jobs out of the queue: all (`clear`) or some (`delete`)."""
    clear, delete = removals(await request_bodies.read_object(request))
    jobs, member = request.app[JOBS], member_of(request)
    if clear:
        await jobs.delete_pending(member, None)
        record_action(request, "clear_queue")
    if delete:
        await jobs.delete_pending(member, delete)
        record_action(request, "delete", jobs=delete)
    return bodies.empty()


async def post_interrupt(request: web.Request) -> web.Response:
    """Stop what runs: one job, or the caller's own when the body names none or is not JSON.

    The caller's own are those of the body's `client_id`, or else those that the same program has
    submitted; where there is none, it is the job that runs longest.
    """
    try:
        body = await request_bodies.read_json(request)
    except request_bodies.NotJsonError:
        body = {}
    body = request_bodies.as_object(body, "The request body must be a JSON object or empty")
    prompt_id = body.get("prompt_id")
    jobs, member = request.app[JOBS], member_of(request)
    if not prompt_id:
        client_id = body.get("client_id")
        await jobs.interrupt(
            member,
            None,
            submitter=submitter_of(request),
            client_id=client_id if isinstance(client_id, str) else None,
        )
        record_action(request, "interrupt")
    elif isinstance(prompt_id, str):
        await jobs.interrupt(member, prompt_id)
        record_action(request, "interrupt", job=prompt_id)
    return bodies.empty()


def removals(body: dict[str, Any]) -> tuple[bool, list[str]]:
    """Return what the body of `POST /queue` or `POST /history` removes: whether all, and which ids.

    ComfyUI iterates over strings and objects too, and ignores what is not an id. Raises
    `LocalError` (400) for anything else.
    """
    ids: object = body.get("delete", [])
    if not isinstance(ids, list | str | dict):
        raise LocalError(
            "invalid_delete",
            "delete must be a list of prompt ids.",
            details=f"It is {request_bodies.kind(ids)}.",
        )
    named = () if isinstance(ids, str) else ids
    return bool(body.get("clear")), [id_ for id_ in named if isinstance(id_, str)]


async def get_history(request: web.Request) -> web.StreamResponse:
    """Return all entries, or those of `max_items` and `offset`."""
    query, held = request.query, hold(request, "answer")
    body = await request.app[JOBS].history.json(
        member_of(request),
        max_items=_history_integer(query, "max_items"),
        offset=_history_integer(query, "offset"),
        reserve=lambda size: held.resize(2 * size),  # as entries, and as the text that is sent
    )
    if isinstance(body, bytes):
        return bodies.ready(body)
    return await send_json(request, body)


async def get_history_entry(request: web.Request) -> web.Response:
    """Return an entry by its id, or `{}`; waits for a job that is about to end."""
    prompt_id = request.match_info["prompt_id"]
    return bodies.ready(await request.app[JOBS].history_json(member_of(request), prompt_id))


async def post_history(request: web.Request) -> web.Response:
    """Forget all entries (`clear`) or some (`delete`)."""
    clear, delete = removals(await request_bodies.read_object(request))
    jobs, member = request.app[JOBS], member_of(request)
    if clear:
        await jobs.history.forget(member, None)
    if delete:
        await jobs.history.forget(member, delete)
    return bodies.empty()


def _history_integer(query: Mapping[str, str], name: str) -> int | None:
    def refuse(text: str) -> LocalError:
        shown = f"It is {text[:40]!r}."
        return LocalError(f"invalid_{name}", f"{name} must be an integer.", details=shown)

    return request_bodies.query_integer(query, name, refuse)


async def list_jobs(request: web.Request) -> web.Response:
    """Return jobs, filtered, sorted and in pages."""
    query = parse_query(request.query)
    return await bodies.large_json(
        request, await request.app[JOBS].list_jobs(member_of(request), query)
    )


async def get_job(request: web.Request) -> web.Response:
    """Return a job with its outputs and its workflow."""
    record = await request.app[JOBS].job(member_of(request), request.match_info["job_id"])
    if record is None:
        raise PlainError("Job not found", kind="not_found")
    return bodies.ready(await examined(request, record, _whole_json))


def _whole_json(record: JobRecord) -> bytes:
    return codec.dump_bytes(record.whole())


async def examined(request: web.Request, record: JobRecord, work: Callable[[JobRecord], T]) -> T:
    """Return what `work` makes of a job: in a thread if that is large, whose values would take many
    times its bytes if they were all in memory that clients ask for. Raises `MemoryLimitError`."""
    if record.size <= request_bodies.LARGE:
        return work(record)
    hold(request, "answer").grow(2 * record.size)  # as it is stored, and as it is sent
    return await in_turn(request, partial(work, record))


async def cancel_job(request: web.Request) -> web.Response:
    """Cancel a job; an unknown or ended one is not an error."""
    job_id = request.match_info["job_id"]
    cancelled = await request.app[JOBS].cancel(member_of(request), job_id)
    if cancelled:
        record_action(request, "cancel", job=job_id)
    return bodies.json({"cancelled": cancelled})


async def cancel_jobs(request: web.Request) -> web.Response:
    """Cancel some jobs, and return whether any was cancelled."""
    try:
        body = await request_bodies.read_json(request)
    except request_bodies.NotJsonError:
        raise PlainError("Request body must be valid JSON") from None
    job_ids = field_of(body, "job_ids")
    if not isinstance(job_ids, list):
        raise PlainError("job_ids must be a list")
    member = member_of(request)
    if len(job_ids) <= _MAX_IDS_INLINE:
        invalid = _invalid(job_ids)
    else:
        invalid = await in_turn(request, partial(_invalid, job_ids))
    if invalid:
        raise PlainError("job_ids contains invalid id(s)", invalid_ids=invalid)
    cancelled = await request.app[JOBS].cancelled_of(member, job_ids)
    for job_id in cancelled:
        record_action(request, "cancel", job=job_id)
    return bodies.json({"cancelled": bool(cancelled)})


#: Maximum number of ids that are checked on the event loop; more take longer than a few ms.
_MAX_IDS_INLINE = 1_000


def _invalid(job_ids: list[Any]) -> list[str]:
    return [id_ if isinstance(id_, str) else repr(id_) for id_ in job_ids if not is_job_id(id_)]


def parse_query(query: Mapping[str, str]) -> JobQuery:
    """Read the query of `GET /api/jobs`. Raises `PlainError` with ComfyUI's words."""
    wanted = [part.strip().lower() for part in query.get("status", "").split(",") if part.strip()]
    invalid = [status for status in wanted if status not in STATUSES]
    if invalid:
        raise PlainError(
            f"Invalid status value(s): {', '.join(invalid)}. Valid values: {', '.join(STATUSES)}"
        )
    sort_by = query.get("sort_by", "created_at").lower()
    if sort_by not in ("created_at", "execution_duration"):
        raise PlainError("sort_by must be 'created_at' or 'execution_duration'")
    sort_order = query.get("sort_order", "desc").lower()
    if sort_order not in ("asc", "desc"):
        raise PlainError("sort_order must be 'asc' or 'desc'")
    limit = _job_integer(query, "limit")
    if limit is not None and limit <= 0:
        raise PlainError("limit must be a positive integer")
    return JobQuery(
        statuses=frozenset(wanted) or None,
        workflow_id=query.get("workflow_id") or None,
        sort_by=sort_by,
        descending=sort_order == "desc",
        limit=limit,
        offset=max(0, _job_integer(query, "offset") or 0),
    )


def _job_integer(query: Mapping[str, str], name: str) -> int | None:
    return request_bodies.query_integer(
        query, name, lambda _: PlainError(f"{name} must be an integer")
    )
