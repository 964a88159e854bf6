"""`/proxy/api/validate`: what submitting a workflow would find, without submitting it."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from proxy.admin.gallery import shown_cost
from proxy.admin.schema.jobs import ValidatedPrompt
from proxy.api import bodies, request_bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.holding import in_turn
from proxy.api.jobs import parse_prompt
from proxy.api.keys import CATALOG, JOBS
from proxy.api.requests import member_of
from proxy.jobs.submission import ValidationResult
from proxy.translate import editor
from proxy.translate.errors import LocalError


async def validate(request: web.Request) -> JsonAnswer[ValidatedPrompt]:
    """Return what `POST /prompt` would answer to a body, and what the job would cost.

    The `prompt` may also be a file of the editor, which is returned in API format; of alternatives
    in braces the first is taken. Nothing is submitted.
    """
    body = await request_bodies.read_object(request)
    graph: dict[str, Any] | None = None
    try:
        if editor.is_editors(body.get("prompt")):
            graph = await _converted(request, body["prompt"])
            body = {**body, "prompt": graph}
        wanted = parse_prompt(body)
        found = await request.app[JOBS].submissions.validate(member_of(request), wanted)
    except LocalError as error:
        found = ValidationResult(error, error.node_errors)
    return await bodies.large_json(request, _shown(found, graph))


async def _converted(request: web.Request, workflow: dict[str, Any]) -> dict[str, Any]:
    """Return the graph of a file of the editor. Raises `LocalError` (400)."""
    classes = editor.named(workflow, await request.app[CATALOG].classes(member_of(request)))
    convert = partial(editor.prompt_of, workflow, classes, lambda choices: choices[0])
    return await in_turn(request, convert)


def _shown(found: ValidationResult, graph: dict[str, Any] | None) -> ValidatedPrompt:
    error = found.error
    return {
        "valid": error is None,
        "status": 200 if error is None else bodies.status_of(error),
        "error": None if error is None else error.body()["error"],
        "node_errors": dict(found.node_errors),
        "cost": None if found.cost is None else shown_cost(found.cost.charges),
        "prompt": graph,
    }
