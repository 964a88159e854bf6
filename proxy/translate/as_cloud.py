"""The forms of Comfy Cloud: jobs for programs that were written for it, and its user files.

The forms are those of the cloud's OpenAPI; a job comes in ComfyUI's, as `GET /api/jobs/{id}` and
`/history` show it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct

from proxy.translate import codec
from proxy.translate.output_files import files_of
from proxy.translate.times import rfc3339

#: What the cloud's errors say of a failure, in `execution_error` and in `error_message`.
_ERROR_FIELDS = (
    "node_id",
    "node_type",
    "exception_message",
    "exception_type",
    "traceback",
    "current_inputs",
    "current_outputs",
)


class OutputFile(Struct, frozen=True):
    """A file among a job's outputs, and its place there."""

    node_id: str
    key: str
    index: int
    filename: str
    subfolder: str
    type: str
    id: str | None = None


def status(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of `GET /api/job/{id}/status`, with one of the five friendly states.

    `error_message` is there when the job failed: a JSON text with the fields of the error.
    """
    created = job["create_time"]
    updated = job.get("execution_end_time") or job.get("execution_start_time") or created
    answer = {
        "id": job["id"],
        "status": job["status"],
        "created_at": rfc3339(created * 1000),
        "updated_at": rfc3339(max(created, updated) * 1000),
    }
    if job["status"] == "failed":
        failure = job.get("execution_error") or {}
        answer["error_message"] = codec.dumps({key: failure.get(key) for key in _ERROR_FIELDS})
    return answer


#: What stands in the list `prompt` of a history entry.
_PROMPT = ("priority", "prompt_id", "prompt", "extra_data", "outputs_to_execute")


def history_item(job: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of `GET /api/history_v2`: as light as the cloud's, without graph and
    workflow."""
    detail = history_detail(entry)
    prompt = {name: detail["prompt"][name] for name in ("priority", "prompt_id", "extra_data")}
    prompt["extra_data"] = _light(prompt["extra_data"])
    ids = {"prompt_id": prompt["prompt_id"], "create_time": job["create_time"]}
    workflow = {"workflow_id": job["workflow_id"]} if "workflow_id" in job else {}
    return {**ids, **detail, "prompt": prompt, **workflow}


def history_detail(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value in the answer of `GET /api/history_v2/{id}`; `prompt` is an object, not a
    list."""
    return {
        "prompt": dict(zip(_PROMPT, entry["prompt"], strict=True)),
        "outputs": entry["outputs"],
        "status": entry["status"],
        "meta": entry.get("meta", {}),
    }


def output_files(outputs: Mapping[str, Any]) -> Iterator[OutputFile]:
    """Yield the files in a job's outputs, under whatever keys, in their order."""
    for node_id, (key, index, name, item) in files_of(outputs):
        subfolder, type_ = str(item.get("subfolder", "")), str(item.get("type", "output"))
        yield OutputFile(node_id, key, index, name, subfolder, type_, item.get("id"))


def asset(
    job_id: str,
    file: OutputFile,
    *,
    hash_: str | None,
    size: int | None,
    media_type: str,
    modified: float,
) -> dict[str, Any]:
    """Return an item of `GET /api/jobs/{id}/assets`.

    `hash_` is BLAKE3 in hexadecimal and `size` in bytes, both `None` while the content has not
    been seen; `modified` is in seconds since 1970. The `id` is that of the asset, or of the place
    of a file that has none in the outputs, and always the same.
    """
    place = f"{job_id}/{file.node_id}/{file.key}/{file.index}"
    query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
    return {
        "id": file.id or str(uuid.uuid5(uuid.NAMESPACE_URL, place)),
        "name": file.filename,
        "hash": None if hash_ is None else f"blake3:{hash_}",
        "size": size,
        "mime_type": media_type,
        "preview_url": f"/api/view?{urlencode(query)}",
        "created_at": rfc3339(modified * 1_000_000),
        "node_id": file.node_id,
        "output_key": file.key,
        "output_index": file.index,
    }


def _light(extra_data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data without the workflow, which the cloud leaves out of lists."""
    light = dict(extra_data)
    png_info = light.get("extra_pnginfo")
    if isinstance(png_info, dict):
        light["extra_pnginfo"] = {k: v for k, v in png_info.items() if k != "workflow"}
    return light
