"""Describes `/proxy/api` as OpenAPI: `docs/openapi.json`, written by `make docs`.

Paths, methods and summaries come from the table of routes and the docstrings of its handlers, the
schemas from the annotations of the handlers and from what they check bodies with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from proxy import __version__
from proxy.admin.audit import MAX_ENTRIES, MAX_OFFSET
from proxy.admin.gallery import PAGE
from proxy.admin.schema import jobs, state
from proxy.api.bodies import JsonAnswer
from proxy.api.routes import Route
from proxy.app.server import ROUTES
from proxy.costs.balances import GivenBalance
from proxy.members.member import MemberFields, NewMember, NewToken
from proxy.storage.history import MAX_FOUND
from proxy.translate.errors import RefusalBody
from proxy.webhooks.endpoints import NewWebhook, WebhookFields

PREFIX = "/proxy/api/"

_REFERENCE = "#/components/schemas/{name}"

#: Media types of answers that are not JSON.
_WEBP, _EVENTS = "image/webp", "text/event-stream"

#: A parameter of the query: its type and what it is for.
Query: TypeAlias = Mapping[str, tuple[Any, str]]

_MEMBER: Query = {"member": (str, "The member; for admins. Without it everybody, or oneself.")}
_OWNER: Query = {"member": (str, "The member whose job it is; for admins. Without it oneself.")}
_JOB: Query = {"id": (Annotated[str, Meta(min_length=1)], "The id of the job."), **_OWNER}
_DAY = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]

#: Parameters that must be given.
_REQUIRED = frozenset({"id"})


class Operation(Struct, frozen=True):
    """What a route takes and answers with. The type of an answer of JSON is that of its handler,
    and `answer` is any other; without one it has no body. `absent` says when it answers 204
    instead."""

    answer: Any = None
    status: int = 200
    media: str = "application/json"
    query: Query = {}
    body: Any = None
    absent: str = ""


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "usage"): Operation(
        query={
            "from": (_DAY, "The first day (UTC); without it today."),
            "to": (_DAY, "The last day (UTC); without it today."),
            "rows": (
                Literal["days", "costs"],
                "Usage by day, member and token (`days`), or its costs by account and class too.",
            ),
            "format": (Literal["json", "csv"], "With `csv` the answer is a file."),
            **_MEMBER,
        },
    ),
    ("GET", "billing"): Operation(),
    ("PATCH", "billing/{account}"): Operation(status=204, body=GivenBalance),
    ("GET", "audit"): Operation(
        query={
            "limit": (Annotated[int, Meta(ge=0, le=MAX_ENTRIES)], "Entries at most; 100."),
            "offset": (Annotated[int, Meta(ge=0, le=MAX_OFFSET)], "Entries to leave out; 0."),
            "member": (str, "Only entries of this member."),
            "action": (str, "Only entries of this action."),
        },
    ),
    ("GET", "cloud-anomalies"): Operation(),
    ("GET", "state"): Operation(),
    ("GET", "events"): Operation(state.State, media=_EVENTS),
    ("GET", "interface"): Operation(),
    ("GET", "jobs"): Operation(
        query={
            "status": (Literal["completed", "failed", "cancelled"], "How the jobs ended."),
            "q": (str, "A text in the label, the id or the member."),
            "limit": (Annotated[int, Meta(ge=1, le=MAX_FOUND)], f"Jobs of a page; {PAGE}."),
            "before": (str, "The `next` of the page before."),
            **_MEMBER,
        },
    ),
    ("GET", "jobs/{id}"): Operation(query=_OWNER),
    ("GET", "thumbnail"): Operation(
        bytes,
        media=_WEBP,
        query={
            **_JOB,
            "output": (Annotated[int, Meta(ge=0)], "The `number` of an output of the job."),
        },
    ),
    ("GET", "run"): Operation(query=_JOB),
    ("GET", "preview"): Operation(
        bytes, media="image/*", query=_JOB, absent="There is no preview."
    ),
    ("GET", "workflow"): Operation(
        query={
            **_JOB,
            "format": (
                Literal["interface", "api"],
                "The answer is a file with the workflow, or the graph, alone.",
            ),
        },
    ),
    ("POST", "jobs/cancel"): Operation(body=jobs.JobToCancel),
    ("POST", "jobs/release"): Operation(),
    ("POST", "validate"): Operation(body=jobs.PromptToValidate),
    ("GET", "members"): Operation(query=_MEMBER),
    ("POST", "members"): Operation(status=201, body=NewMember),
    ("PATCH", "members/{name}"): Operation(body=MemberFields),
    ("DELETE", "members/{name}"): Operation(status=204),
    ("GET", "tokens"): Operation(query=_MEMBER),
    ("POST", "tokens"): Operation(status=201, body=NewToken),
    ("DELETE", "tokens/{prefix}"): Operation(status=204),
    ("GET", "webhooks"): Operation(query=_MEMBER),
    ("POST", "webhooks"): Operation(status=201, body=NewWebhook),
    ("PATCH", "webhooks/{id}"): Operation(body=WebhookFields),
    ("DELETE", "webhooks/{id}"): Operation(status=204),
    ("POST", "webhooks/{id}/secret"): Operation(),
    ("POST", "webhooks/{id}/test"): Operation(status=202),
    ("GET", "webhooks/{id}/deliveries"): Operation(),
}


def undescribed(routes: Iterable[Route]) -> list[str]:
    """Return a sentence for each route of `/proxy/api` without an operation, and for each operation
    without a route."""
    found = [
        (route.method, route.path.removeprefix(PREFIX))
        for route in routes
        if route.path.startswith(PREFIX)
    ]
    return [
        *(
            f"{method} {PREFIX}{path} is not in docs/openapi.json: describe what it takes and "
            "answers with in OPERATIONS of docs/openapi.py and run make docs."
            for method, path in found
            if (method, path) not in OPERATIONS
        ),
        *(
            f"docs/openapi.py describes {method} {PREFIX}{path}, which is no route: remove it from "
            "OPERATIONS and run make docs."
            for method, path in OPERATIONS
            if (method, path) not in found
        ),
    ]


def document(routes: Iterable[Route] = ROUTES) -> dict[str, Any]:
    """Return the description of all routes of `/proxy/api`."""
    described = {
        (route.method, route.path): (route, _typed(OPERATIONS[key], route))
        for route in routes
        if route.path.startswith(PREFIX)
        and (key := (route.method, route.path.removeprefix(PREFIX))) in OPERATIONS
    }
    types = [RefusalBody]
    for _, operation in described.values():
        types += [kind for kind in (operation.answer, operation.body) if kind not in (None, bytes)]
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for component in components.values():  # docstrings, whose indentation Python 3.13 removes
        if "description" in component:
            component["description"] = " ".join(component["description"].split())
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), (route, operation) in described.items():
        paths.setdefault(path, {})[method.lower()] = _operation(route, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "comfy-cloud-proxy",
            "version": __version__,
            "description": "Written by `make docs` from the code. The routes of the dashboard and "
            "for administration; the others are those of ComfyUI (docs/routes.md). Times are ms "
            "since 1970.",
        },
        "servers": [{"url": "http://127.0.0.1:8188"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of a member. A proxy without members needs none.",
                }
            },
        },
    }


def _typed(operation: Operation, route: Route) -> Operation:
    """Return an operation with the answer that its handler is annotated with."""
    kinds = get_type_hints(route.handler)["return"]
    for kind in get_args(kinds) if isinstance(kinds, UnionType) else (kinds,):
        if get_origin(kind) is JsonAnswer:
            return replace(operation, answer=get_args(kind)[0])
    return operation


def page() -> str:
    """Return `docs/openapi.json`."""
    return json.dumps(document(), indent=1, sort_keys=False, ensure_ascii=False) + "\n"


def _operation(route: Route, operation: Operation) -> dict[str, Any]:
    summary, _, rest = (route.handler.__doc__ or "").strip().partition("\n\n")
    described: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": " ".join(summary.split()),
        "description": " ".join(rest.split()),
        "parameters": [*_parameters(route, operation)],
        "responses": {
            str(operation.status): {"description": "The answer.", **_content(operation)},
            **({"204": {"description": operation.absent}} if operation.absent else {}),
            "default": {
                "description": "A refusal, with a sentence that says what to do.",
                "content": {"application/json": {"schema": _schema(RefusalBody)}},
            },
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": _schema(operation.body)}}
        described["requestBody"] = {"required": True, "content": content}
    return {name: value for name, value in described.items() if value}


def _content(operation: Operation) -> dict[str, Any]:
    if operation.answer is None:
        return {}
    if operation.answer is bytes:
        return {"content": {operation.media: {}}}
    if operation.media == _EVENTS:
        kind = {"type": "string", "description": "Events `state`, whose data is a State as JSON."}
        return {"content": {operation.media: {"schema": kind}}}
    return {"content": {operation.media: {"schema": _schema(operation.answer)}}}


def _parameters(route: Route, operation: Operation) -> list[dict[str, Any]]:
    parts = re.findall(r"{(\w+)}", route.path)
    return [
        *(
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parts
        ),
        *(
            {
                "name": name,
                "in": "query",
                "required": name in _REQUIRED,
                "description": text,
                "schema": _schema(kind),
            }
            for name, (kind, text) in operation.query.items()
        ),
    ]


def _schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type, which of a named one refers to the components."""
    (found,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    return found
