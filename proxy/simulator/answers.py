"""The forms in which the cloud answers about jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from proxy.simulator import outputs
from proxy.simulator.account import SimulatedAccount
from proxy.simulator.events import display_node, parent_node
from proxy.simulator.jobs import SPECIFIED, SimulatedJob, items_of
from proxy.simulator.queue import SimulatedQueue
from proxy.simulator.switches import Switches
from proxy.translate import codec

#: The deployment of each workspace that has one.
DEPLOYMENT = "dep_1"

REDACTED = "[REDACTED]"
SECRETS = ("api_key_comfy_org", "auth_token_comfy_org")


def entry(job: SimulatedJob, account: SimulatedAccount, switches: Switches) -> dict[str, Any]:
    """Return an item of `GET /api/jobs`. There is no `priority`."""
    result: dict[str, Any] = {
        "id": job.id,
        "status": job.status,
        "create_time": _time(job.created, switches),
    }
    if job.workflow_id is not None:
        result["workflow_id"] = job.workflow_id
    if switches.executors or job.picked:
        result["executor"] = "platform_gateway"
        result["deployment"] = {"deployment_id": DEPLOYMENT, "release_id": "rel_1", "name": "own"}
    if not job.terminal:
        return result
    if job.started is not None:
        result["execution_start_time"] = job.started
    if job.ended is not None:
        result["execution_end_time"] = job.ended
    result |= _error(job, switches)
    if not job.outputs_hidden:
        files = [item for ui in job.outputs.values() for item in items_of(ui)]
        result["outputs_count"] = len(files)
        result["previewable_outputs_count"] = len(files)
        preview = outputs.preview_output(job, account.library, switches)
        if preview is not None:
            result["preview_output"] = preview
    return result


def detail(
    job: SimulatedJob, account: SimulatedAccount, queue: SimulatedQueue, switches: Switches
) -> dict[str, Any]:
    """Return the answer of `GET /api/jobs/{id}`."""
    result = entry(job, account, switches)
    result |= {
        "update_time": _time(job.updated, switches),
        "queue_reason": {"queued_limited": "concurrency_limit", "queued_waiting": "capacity"}.get(
            job.state
        ),
        "workflow": {"prompt": job.graph, "extra_data": _redacted(job.extra_data)},
        "workspace_id": account.workspace_id,
        "user_id": account.user_id,
    }
    position = queue.position(job)
    if position is not None:
        result["queue_position"] = position
    if job.terminal and not job.outputs_hidden:
        result["outputs"] = outputs.in_job(job, account.library, switches)
        result["execution_status"] = execution_status(job)
        result["execution_meta"] = execution_meta(job)
    return result


def status(job: SimulatedJob, switches: Switches) -> dict[str, Any]:
    """Return the answer of `GET /api/job/{id}/status`."""
    raw = job.state
    named = raw if switches.raw_statuses else SPECIFIED.get(raw, SPECIFIED[job.status])
    result: dict[str, Any] = {
        "id": job.id,
        "status": named,
        "created_at": _rfc3339(job.created),
        "updated_at": _rfc3339(job.updated),
        "last_state_update": _rfc3339(job.updated),
    }
    if job.started is not None:
        result["assigned_inference"] = "inference-simulator-0"
    if job.error is not None:
        result["error_message"] = codec.dumps(_error_fields(job.error))
    return result


def history_entry(job: SimulatedJob, switches: Switches) -> dict[str, Any]:
    """Return an item of `GET /api/history_v2`; without the workflow."""
    result: dict[str, Any] = {
        "prompt_id": job.id,
        "create_time": job.created,
        "prompt": {
            "priority": float(job.number),
            "prompt_id": job.id,
            "extra_data": _stored(job.extra_data),
        },
        "outputs": outputs.in_history(job, switches),
        "status": execution_status(job),
        "meta": execution_meta(job),
    }
    if job.workflow_id is not None:
        result["workflow_id"] = job.workflow_id
    return result


def history_detail(job: SimulatedJob, switches: Switches) -> dict[str, Any]:
    """Return the value in the answer of `GET /api/history_v2/{id}`; `prompt` is no tuple."""
    return {
        "prompt": {
            "priority": float(job.number),
            "prompt_id": job.id,
            "prompt": job.graph,
            "extra_data": _stored(job.extra_data),
            "outputs_to_execute": job.output_nodes,
        },
        "outputs": outputs.in_history(job, switches),
        "status": execution_status(job),
        "meta": execution_meta(job),
    }


def queue_tuple(number: int, job: SimulatedJob, switches: Switches) -> list[Any]:
    """Return an item of `GET /api/queue`: outputs in fourth place, and no `extra_data`."""
    graph: dict[str, Any] = job.graph
    if switches.queue_prompt == "wrapper":
        graph = {"prompt": job.graph, "extra_data": _redacted(job.extra_data)}
    return [number, job.id, graph, job.output_nodes, {"create_time": job.created}]


def execution_status(job: SimulatedJob) -> dict[str, Any]:
    """Return the run as the ComfyUI worker wrote it down."""
    return {
        "status_str": "success" if job.status == "completed" else "error",
        "completed": job.status == "completed",
        "messages": [[name, data] for name, data in job.messages],
    }


def execution_meta(job: SimulatedJob) -> dict[str, Any]:
    """Return which node of the graph each output belongs to, by the node of the output."""
    return {
        node_id: {
            "node_id": node_id,
            "display_node": display_node(node_id),
            "parent_node": parent_node(node_id),
            "real_node_id": node_id,
        }
        for node_id in job.outputs
    }


def _time(milliseconds: int, switches: Switches) -> int:
    return milliseconds if switches.create_time == "ms" else milliseconds // 1000


def _rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")


def _error(job: SimulatedJob, switches: Switches) -> dict[str, Any]:
    if job.error is None or job.outputs_hidden:
        return {}
    fields = _error_fields(job.error)
    if switches.error_detail == "string":
        return {"error_message": codec.dumps(fields)}
    return {"execution_error": fields}


def _error_fields(error: dict[str, Any]) -> dict[str, Any]:
    return {**error, "node_id": error["node_id"] or "", "node_type": error["node_type"] or ""}


def _redacted(extra_data: dict[str, Any]) -> dict[str, Any]:
    return {name: REDACTED if name in SECRETS else value for name, value in extra_data.items()}


def _stored(extra_data: dict[str, Any]) -> dict[str, Any]:
    """Return what the history keeps of `extra_data`."""
    kept = _redacted(extra_data)
    kept.pop("extra_pnginfo", None)
    return kept
