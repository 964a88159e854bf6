"""`/api/prompt`: submissions, and how many jobs the account has."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web

from proxy.simulator import errors, outputs
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer, is_uuid
from proxy.simulator.errors import Refusal
from proxy.simulator.jobs import SimulatedJob
from proxy.simulator.validation import GraphVerdict, validate


class PromptRequest(msgspec.Struct):
    """The body. Unknown keys are tolerated; `number` and `front` have no effect."""

    prompt: dict[str, Any]
    number: float | int | None = None
    front: bool | None = None
    extra_data: dict[str, Any] | None = None
    partial_execution_targets: list[str] | None = None
    workflow_id: str | None = None
    workflow_version_id: str | None = None
    client_id: Any = None
    prompt_id: Any = None


async def info(call: Call) -> web.Response:
    """Answer `GET /api/prompt`."""
    return answer({"exec_info": {"queue_remaining": call.queue.remaining()}})


async def submit(call: Call) -> web.Response:
    """Answer `POST /api/prompt`."""
    switches = call.switches
    _refuse(call)
    if call.request.content_type != "application/json":
        raise errors.bad_request("Content-Type must be application/json")
    request = await call.json(PromptRequest, switches.max_workflow_bytes)
    if switches.queue_limit and len(call.queue.waiting) >= switches.queue_limit:
        raise errors.prompt_refusal("QUEUE_LIMIT", switches)
    library = call.account.library
    found = validate(
        request.prompt,
        catalog=call.world.catalog_of(call.account),
        targets=request.partial_execution_targets,
        files=lambda name: outputs.is_found(library, name, switches),
    )
    node_errors = found.node_errors if switches.node_error_details else _shortened(found)
    if found.error is not None:
        raise _invalid(call, found.error, node_errors)
    if (known := _repeated(call, request)) is not None:
        if switches.repeated_prompt_id == "refused":
            raise errors.bad_request("a job with this prompt_id exists")
        return answer({"prompt_id": known.id, "number": known.number, "node_errors": {}})
    call.account.submitted += 1
    number = call.account.submitted
    if node_errors and switches.partly_valid == "ghost":
        return answer({"prompt_id": str(uuid4()), "number": number, "node_errors": node_errors})
    job = _job(call, request, found, number)
    if call.account.credits is not None:
        call.account.credits -= 1
    call.queue.put(job)
    if switches.answer_after_first_event:
        await job.first_event.wait()
    if switches.late_answer:
        await asyncio.sleep(switches.late_answer)
    shown = {} if switches.partly_valid == "silent" else node_errors
    named = {} if switches.bare_acceptance else {"prompt_id": job.id}
    return answer({**named, "number": number, "node_errors": shown})


def _refuse(call: Call) -> None:
    switches = call.switches
    if switches.refuse_prompt is not None:
        raise errors.prompt_refusal(switches.refuse_prompt, switches)
    if call.account.credits is not None and call.account.credits <= 0:
        raise errors.prompt_refusal("PAYMENT_REQUIRED", switches)


def _invalid(call: Call, error: dict[str, Any], node_errors: dict[str, Any]) -> Refusal:
    if call.switches.invalid_prompt == "flat":
        return errors.flat(400, str(error["type"]).upper(), str(error["message"]))
    body = {"error": error, "node_errors": node_errors}
    return Refusal(200 if call.switches.invalid_prompt == "200" else 400, body)


def _shortened(found: GraphVerdict) -> dict[str, Any]:
    return {
        node_id: {
            **node,
            "errors": [
                {"type": error["type"], "message": error["message"]} for error in node["errors"]
            ],
        }
        for node_id, node in found.node_errors.items()
    }


def _repeated(call: Call, request: PromptRequest) -> SimulatedJob | None:
    """Return the job that has the id, where that makes a difference."""
    wanted, switches = request.prompt_id, call.switches
    if not switches.honour_prompt_id or switches.repeated_prompt_id == "another":
        return None
    return call.world.jobs.get(wanted) if isinstance(wanted, str) else None


def _job(call: Call, request: PromptRequest, found: GraphVerdict, number: int) -> SimulatedJob:
    extra_data = dict(request.extra_data or {})
    if call.switches.echo_client_id and request.client_id is not None:
        extra_data["client_id"] = request.client_id
    job = SimulatedJob(
        graph=request.prompt,
        extra_data=extra_data,
        output_nodes=found.outputs,
        number=number,
        workflow_id=request.workflow_id or _workflow_id(extra_data),
        picked=call.picked,
    )
    wanted = request.prompt_id
    honoured = call.switches.honour_prompt_id and isinstance(wanted, str) and is_uuid(wanted)
    if honoured and wanted not in call.world.jobs:
        job.id = wanted
    return job


def _workflow_id(extra_data: dict[str, Any]) -> str | None:
    workflow = extra_data.get("extra_pnginfo")
    workflow = workflow.get("workflow") if isinstance(workflow, dict) else None
    workflow_id = workflow.get("id") if isinstance(workflow, dict) else None
    return workflow_id if isinstance(workflow_id, str) else None


ROUTES = [
    SimulatedRoute("GET", "/api/prompt", info, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/prompt", submit, RouteAccess.PAID),
]
