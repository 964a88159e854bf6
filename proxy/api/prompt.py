"""`/prompt`: submitting, and the length of the queue."""

from __future__ import annotations

import math
import uuid
from dataclasses import replace
from typing import Any

import structlog
from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.authenticator import submitter_of
from proxy.api.middleware import prepare
from proxy.api.services import member_of, of
from proxy.jobs.request import Request
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Routes to nobody: no socket can have it, since ComfyUI gives an id to a socket without one.
UNKNOWN_CLIENT = ""


async def get_prompt(request: web.Request) -> web.Response:
    """How many jobs wait or run."""
    remaining = of(request).jobs.queue_remaining(member_of(request))
    return answers.json({"exec_info": {"queue_remaining": remaining}})


async def post_prompt(request: web.Request) -> web.StreamResponse:
    """Submit a job. Its messages start to flow when the answer has been written."""
    jobs, member, books = of(request).jobs, member_of(request), of(request).books
    body = await bodies.read_json(request)
    wanted = parse(body, request.headers.get("Comfy-Usage-Source"))
    wanted = replace(wanted, submitter=submitter_of(request))
    with books.submission(member):
        accepted = await jobs.submit(member, wanted)
    try:
        books.note(request, "submit", job=accepted.prompt_id)
        log.info("job_accepted", job=accepted.prompt_id, number=accepted.number)
        answer = answers.json(
            {
                "prompt_id": accepted.prompt_id,
                "number": accepted.number,
                "node_errors": accepted.node_errors,
            }
        )
        await prepare(request, answer)
        await answer.write_eof()
        return answer
    finally:
        jobs.release(member, accepted.prompt_id)


def parse(body: object, usage_source: str | None = None) -> Request:
    """Check the body of `POST /prompt` as the newest ComfyUI does. Raises `LocalError` (400).

    Where ComfyUI would answer 500 or die (a `number` that is none, a graph that is a list, a
    `client_id` that is a list), this refuses with a sentence. `usage_source` is the header
    `Comfy-Usage-Source`.
    """
    if body == [] or (isinstance(body, dict) and "prompt" not in body):
        raise LocalError(400, "no_prompt", "No prompt provided", details="No prompt provided")
    if not isinstance(body, dict):
        raise _wrong("invalid_body", "The request body", "a JSON object", body)
    number = _number(body["number"]) if "number" in body else None
    graph = _graph(body["prompt"])
    prompt_id = _prompt_id(body.get("prompt_id"))
    targets = _targets(body.get("partial_execution_targets"))
    extra_data = body.get("extra_data", {})
    if not isinstance(extra_data, dict):
        raise _wrong("invalid_extra_data", "extra_data", "an object", extra_data)
    extra_data = dict(extra_data)
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    if usage_source:
        extra_data.setdefault("comfy_usage_source", usage_source)
    return Request(
        graph=graph,
        client_id=_client_id(extra_data.get("client_id")),
        prompt_id=prompt_id,
        number=number,
        front=bool(body.get("front")),
        extra_data=extra_data,
        targets=targets,
    )


def is_job_id(value: object) -> bool:
    """Whether a value is a job id: a UUID in canonical lowercase form (ComfyUI since 0.25)."""
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


def _graph(graph: object) -> dict[str, Any]:
    if not isinstance(graph, dict):
        raise _wrong("invalid_prompt", "prompt", "an object of nodes in API format", graph)
    for node_id, node in graph.items():
        if not isinstance(node, dict):
            raise LocalError(
                400,
                "invalid_prompt",
                f"A node of the prompt must be an object, not {bodies.kind(node)}.",
                details=f"Node ID '#{node_id}'",
            )
    return graph


def _prompt_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not is_job_id(value):
        raise LocalError(
            400,
            "invalid_prompt_id",
            "prompt_id must be a valid UUID",
            details="prompt_id must be a UUID string in canonical lowercase hyphenated form; "
            "omit it to let the server generate one",
        )
    return str(value)


def _targets(value: object) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
        what = "a list of node ids (strings)"
        raise _wrong("invalid_partial_execution_targets", "partial_execution_targets", what, value)
    if not value:
        raise LocalError(400, "prompt_no_outputs", "Prompt has no outputs")
    return list(value)


def _client_id(value: object) -> str | None:
    """Whom the events go to. A number is taken and known to nobody, as in ComfyUI."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return UNKNOWN_CLIENT
    raise _wrong("invalid_client_id", "client_id", "a string", value)


def _wrong(type_: str, name: str, expected: str, value: object) -> LocalError:
    shown = bodies.kind(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
    return LocalError(400, type_, f"{name} must be {expected}.", details=f"It is {shown}.")
