"""The body of a submission to API v2, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from proxy.translate.jobs import reachable
from proxy.translate.reading import field_of, text_of

#: The label by which a job is found again.
LABEL = "ccp_job"

#: Bytes of a submission that the gateway of a deployment takes. It answers more of them after some
#: 100 kB and closes, so that its answer may get lost.
MAX_BODY_BYTES = 10_000_000

#: The only key of `extra_data`.
_CREDENTIAL = "api_key_comfy_org"

#: What a refusal by code means, and by status where the code is not known.
_SENTENCES = {
    "unauthorized": "The deployment does not accept the API key",
    "forbidden": "The API key has no access to the deployment",
    "insufficient_credits": "The workspace of the deployment has no credits left",
    "deployment_stopped": "The deployment is stopped",
    "deployment_not_ready": "The deployment is starting",
    "queue_full": "The queue of the deployment is full",
}
_CODES = {401: "unauthorized", 402: "insufficient_credits", 403: "forbidden"}

#: The types of these refusals, by which the rest of the proxy knows them.
_TYPES = {
    "unauthorized": "DEPLOYMENT_KEY_REFUSED",
    "forbidden": "DEPLOYMENT_ACCESS_REFUSED",
    "insufficient_credits": "DEPLOYMENT_CREDITS",
    "deployment_stopped": "DEPLOYMENT_STOPPED",
    "deployment_not_ready": "DEPLOYMENT_STARTING",
    "queue_full": "DEPLOYMENT_BUSY",
}


def id_by_mark(mark: str, purpose: str) -> str:
    """Return the id that a job with this mark has for a purpose, always the same."""
    return str(uuid5(NAMESPACE_URL, f"comfy-cloud-proxy:{purpose}:{mark}"))


def body_of(
    graph: Mapping[str, Any],
    extra_data: Mapping[str, Any],
    outputs: Collection[str] | None,
    label: str | None,
) -> dict[str, Any]:
    """Return the body of `POST /api/v2/jobs`.

    API v2 runs whole graphs: of one that is to be run in part, or is valid in part, only what its
    `outputs` need is sent. `extra_data` is closed; of the client's, a key for partner nodes is in
    it.
    """
    needed = reachable(graph, outputs)
    body: dict[str, Any] = {"workflow": {id_: graph[id_] for id_ in graph if id_ in needed}}
    if isinstance(key := extra_data.get(_CREDENTIAL), str):
        body["extra_data"] = {_CREDENTIAL: key}
    if label is not None:
        body["metadata"] = {LABEL: label}
    return body


def code_of(body: object) -> str:
    """Return the code of an error of API v2, empty if it has none."""
    return text_of(field_of(body, "error", "code"))


def refusal_of(status: int, body: object) -> object:
    """Return the body of a refusal in the form of v1: with a `type`, and with node errors as
    ComfyUI has them."""
    code = code_of(body) or _CODES.get(status, "")
    if code in _TYPES:
        return {"error": {"type": _TYPES[code], "message": _SENTENCES[code]}}
    if code != "invalid_workflow" or not isinstance(body, Mapping):
        return body
    error = body["error"]
    errors = field_of(error, "details", "node_errors")
    return {
        "error": {
            "type": "prompt_outputs_failed_validation",
            "message": str(error.get("message") or "Prompt outputs failed validation"),
        },
        "node_errors": _node_errors(errors),
    }


def too_large(size: int) -> dict[str, Any]:
    """Return the refusal of a workflow that is not sent, since the gateway would not take it."""
    return {
        "error": {
            "type": "WORKFLOW_TOO_LARGE",
            "message": f"The workflow has {size:,} bytes and a deployment takes at most "
            f"{MAX_BODY_BYTES:,}",
        }
    }


def lost() -> dict[str, Any]:
    """Return the refusal of a job that may run, where nobody can tell."""
    return {
        "error": {
            "type": "JobLost",
            "message": "The answer to the submission was lost, and the deployment does not tell "
            "whether it has the job: it may have run, and may have been charged. The proxy does "
            "not send it again; look at the deployment's jobs before you run the workflow again.",
        }
    }


def _node_errors(errors: object) -> dict[str, Any]:
    """Return node errors as ComfyUI has them: those of comfy-api-proxy are, the documents show
    `{"12": [{"field", "reason"}]}`."""
    if not isinstance(errors, Mapping):
        return {}
    return {
        str(node): about if isinstance(about, dict) else {"errors": _reasons(about)}
        for node, about in errors.items()
        if isinstance(about, dict | list)
    }


def _reasons(listed: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "type": "invalid_input",
            "message": str(item.get("reason") or ""),
            "details": str(item.get("field") or ""),
            "extra_info": {"input_name": item.get("field")},
        }
        for item in listed
        if isinstance(item, Mapping)
    ]
