"""`workflow_metadata`: an object of the client that all messages about its job carry.

Source: ComfyUI since 0.40. A page with several workflows open knows by it which one a message
belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.translate.reading import field_of, object_of

#: The field of the body of `POST /prompt`, and its name in the `extra_data` of the job.
FIELD = "workflow_metadata"

#: Characters that the object may have as JSON.
MAX_LENGTH = 256

_encoder = json.JSONEncoder()


def placed(extra_data: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's `extra_data` with the metadata of the body, if that is valid, as its own.

    What stood there under the name counts for nothing.
    """
    kept = {key: value for key, value in extra_data.items() if key != FIELD}
    metadata = body.get(FIELD)
    return {**kept, FIELD: metadata} if _is_valid(metadata) else kept


def of_job(extra_data: Mapping[str, Any], workflow_id: str | None) -> dict[str, Any]:
    """Return the metadata of a job: its own, or else the id of the workflow that came with it."""
    metadata = extra_data.get(FIELD)
    if isinstance(metadata, dict) and _is_valid(metadata):
        return metadata
    found = {"workflow_id": workflow_id}
    return found if workflow_id and _is_valid(found) else {}


def workflow_id_of(extra_data: Mapping[str, Any]) -> str | None:
    """Return the `id` of the workflow, if the client sent one that has one."""
    id_ = workflow_of(extra_data).get("id")
    return id_ if isinstance(id_, str) else None


def workflow_of(extra_data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `extra_pnginfo.workflow`, empty if the client sent no workflow."""
    return object_of(field_of(extra_data, "extra_pnginfo", "workflow"))


def _is_valid(metadata: object) -> bool:
    """Return whether the value is an object that is short enough, as `json.dumps` writes it."""
    if not isinstance(metadata, dict):
        return False
    length = 0
    try:
        for part in _encoder.iterencode(metadata):
            length += len(part)
            if length > MAX_LENGTH:
                return False
    except (ValueError, RecursionError):  # a number of too many digits
        return False
    return True
