"""What the cloud says of a job at one moment, from any of the answers that tell it; its outputs.

Sources: `GET /api/jobs` (entries), `GET /api/jobs/{id}` (detail). Both forms of what the
documents dispute are accepted: ms and seconds, `execution_error` and a JSON `error_message`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from proxy.translate import codec
from proxy.translate.graph import inputs_of
from proxy.translate.names import Place, kind

T = TypeVar("T")

Status = Literal["pending", "in_progress", "completed", "failed", "cancelled"]

#: Friendly statuses (`/api/jobs`) and raw ones (`/api/job/{id}/status`, and events) of each.
_WORDS: dict[Status, tuple[str, ...]] = {
    "pending": (
        *("pending", "submitted", "waiting_to_dispatch", "queued_limited", "queued_waiting"),
        *("allocated", "preparing", "pending_execution"),
    ),
    "in_progress": ("in_progress", "executing", "executed", "retryable_error"),
    "completed": ("completed", "success"),
    "failed": ("failed", "error", "erroring", "non_retryable_error", "lost"),
    "cancelled": (
        *("cancelled", "canceled"),
        *("cancel_requested", "cancel_pending", "cancelling_preparing"),
    ),
}
STATUSES = {word: status for status, words in _WORDS.items() for word in words}

#: Statuses of the job itself that are not its last, though their friendly name sounds like it.
UNSETTLED = frozenset({"erroring", "cancel_requested", "cancel_pending", "cancelling_preparing"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job as the cloud sees it. Times are milliseconds since 1970.

    `settled` is true when the run has ended for good: a friendly `failed` or `cancelled` may
    come while the cloud is still tidying up, and then lacks its end time.
    `queue_reason` is why a pending job waits (`concurrency_limit`: for a slot of the plan).
    `outputs` is `None` where the answer does not carry them (lists), `{}` where there are none.
    `unlisted` names what of the answer is in no document: fields of another type, the status.
    """

    cloud_id: str
    status: Status
    settled: bool
    create_time: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    outputs: dict[str, Any] | None = None
    outputs_count: int | None = None
    execution_status: dict[str, Any] | None = None
    execution_error: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    extra_data: dict[str, Any] | None = None
    queue_reason: str | None = None
    unlisted: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the status is one of the three last ones, settled or not."""
        return self.status in ("completed", "failed", "cancelled")

    def message(self, type_: str) -> dict[str, Any] | None:
        """The first message of this type among the worker's own, or `None`."""
        messages = (self.execution_status or {}).get("messages")
        for message in messages if isinstance(messages, list) else []:
            match message:
                case [str(name), dict(data)] if name == type_:
                    return data
        return None

    def ended_at(self, started_at: int, now: int) -> int:
        """The end as many ms after `started_at` as the cloud's clock has between its two.

        Where the cloud tells no end it is `now`; it never is before the start.
        """
        if self.end_time is None:
            return max(started_at, now)
        if self.start_time is None:
            return max(started_at, self.end_time)
        return started_at + max(0, self.end_time - self.start_time)


def milliseconds(value: object) -> int | None:
    """A time in seconds or milliseconds, told apart by its size (over 1e11 is ms).

    `None` for what is no time since 1970: NaN, infinity, negative or beyond the year 5000.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e14:
        return None
    return int(value) if value > 1e11 else int(value * 1000)


def from_job(job: dict[str, Any]) -> Snapshot:
    """Read an entry of `GET /api/jobs` or the answer of `GET /api/jobs/{id}`.

    An unknown status counts as in flight. Raises `KeyError` when there is no `id`.
    """
    raw = str(job.get("status", ""))
    status = STATUSES.get(raw.lower(), "in_progress")
    start_time = milliseconds(job.get("execution_start_time"))
    end_time = milliseconds(job.get("execution_end_time"))
    error = _execution_error(job)
    workflow = _as(dict, job.get("workflow")) or {}
    return Snapshot(
        cloud_id=str(job["id"]),
        status=status,
        settled=_is_settled(raw.lower(), status, start_time, end_time, error),
        create_time=milliseconds(job.get("create_time")),
        start_time=start_time,
        end_time=end_time,
        outputs=_as(dict, job.get("outputs")),
        outputs_count=_as(int, job.get("outputs_count")),
        execution_status=_as(dict, job.get("execution_status")),
        execution_error=error,
        meta=_as(dict, job.get("execution_meta")),
        extra_data=_as(dict, workflow.get("extra_data")),
        queue_reason=_as(str, job.get("queue_reason")),
        unlisted=_unlisted(job, raw.lower()),
    )


#: Types of fields in the documents; `null` stands for an absent one.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "create_time": (int, float),
    "execution_start_time": (int, float),
    "execution_end_time": (int, float),
    "outputs": dict,
    "outputs_count": int,
    "execution_status": dict,
    "execution_error": (dict, str),
    "execution_meta": dict,
    "workflow": dict,
    "queue_reason": str,
}


def _unlisted(job: dict[str, Any], status: str) -> tuple[str, ...]:
    odd = [
        name
        for name, types in _TYPES.items()
        if (value := job.get(name)) is not None and not isinstance(value, types)
    ]
    return tuple(odd if status in STATUSES else ["status", *odd])


def _as(type_: type[T], value: object) -> T | None:
    """The value if it is of the type."""
    return value if isinstance(value, type_) else None


def _is_settled(
    raw: str,
    status: Status,
    start_time: int | None,
    end_time: int | None,
    error: dict[str, Any] | None,
) -> bool:
    """Whether nothing more will happen.

    The friendly `failed` also stands for `erroring`, and `cancelled` for a run that is still
    being stopped (and may yet complete): they are final with an end time, or with an error, or
    where the run never began.
    """
    if raw in UNSETTLED:
        return False
    if raw == "failed":
        return end_time is not None or error is not None
    if raw == "cancelled":
        return end_time is not None or start_time is None
    return status in ("completed", "failed", "cancelled")


def _execution_error(job: dict[str, Any]) -> dict[str, Any] | None:
    error = job.get("execution_error")
    if isinstance(error, dict):
        return error
    text = job.get("error_message") or (error if isinstance(error, str) else None)
    if not isinstance(text, str) or not text:
        return None
    try:
        parsed = codec.loads_text(text)
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"exception_message": text}


# --- outputs of nodes: which entries are files, and under which keys ComfyUI has them -----------

#: What only the cloud says of a file.
_CLOUD_KEYS = frozenset(
    {
        *("asset", "asset_hash", "asset_id", "created_at", "display_name", "hash", "id"),
        *("mime_type", "preview_id", "preview_url", "short_url", "size", "tags", "url"),
    }
)

#: Nodes that write to the `temp` folder.
_TEMPORARY = frozenset({"PreviewImage", "PreviewAudio", "PreviewVideo", "MaskPreview"})


def is_file(item: object) -> bool:
    """Whether an entry of an output's list is a file."""
    return isinstance(item, Mapping) and isinstance(item.get("filename"), str)


def files(output: Mapping[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each file with the key of its list and its place in it."""
    for key, value in output.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                if is_file(item):
                    yield key, index, item


def with_core_keys(output: Mapping[str, Any]) -> dict[str, Any]:
    """The output with videos where core ComfyUI has them: under `images`, with `animated`.

    The cloud's worker puts them under a singular `video`, and the same file again under `videos`
    or a node pack's key. What stands under another key already is not repeated.
    """
    listed = output.get("video")
    if not isinstance(listed, list) or not any(map(is_file, listed)):
        return dict(output)
    others = {key: value for key, value in output.items() if key not in ("video", "videos")}
    videos = [item for item in listed if is_file(item)]
    names = {item["filename"] for item in videos}
    rest = [item for item in _listed(output, "videos") if not _is_named(item, names)]
    elsewhere = {item["filename"] for _, _, item in files(others)}
    moved = [item for item in videos if item["filename"] not in elsewhere]
    if moved:
        others["images"] = [*_listed(others, "images"), *moved]
    if moved or any(_is_named(item, names) for item in _listed(others, "images")):
        others.setdefault("animated", [True])
    if rest:
        others["videos"] = rest
    return others


def _listed(output: Mapping[str, Any], key: str) -> list[Any]:
    value = output.get(key)
    return list(value) if isinstance(value, list) else []


def _is_named(item: Any, names: set[str]) -> bool:
    return is_file(item) and item["filename"] in names


def own_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """What a node pack says of a file, beside the three fields that name it.

    What only the cloud says is left out, and so is every address: it may be signed.
    """
    return {
        key: value
        for key, value in item.items()
        if key not in ("filename", "subfolder", "type")
        and key not in _CLOUD_KEYS
        and not (isinstance(value, str) and value.startswith(("http://", "https://")))
    }


def asset_ids(place: Place, asset: str) -> dict[str, str]:
    """What an item says of the record of its file: a picture is its own preview."""
    return {"id": asset, **({"preview_id": asset} if kind(place.path) == "image" else {})}


def output_type(item: Mapping[str, Any], node: Mapping[str, Any] | None) -> str:
    """The folder that the file is in for a client: `temp` for previews, as the cloud says else.

    The cloud keeps outputs and previews in one bucket, so its `type` may be missing or vague.
    """
    class_type = node.get("class_type") if node else None
    stated = item.get("type")
    if stated == "input":
        return "input"
    if class_type in _TEMPORARY:
        return "temp"
    return stated if stated in ("output", "temp") else "output"


def filename_prefix(node: Mapping[str, Any] | None) -> str | None:
    """The node's `filename_prefix`, unless another node computes it."""
    prefix = inputs_of(node).get("filename_prefix")
    if isinstance(prefix, Mapping):
        prefix = prefix.get("__value__")
    return prefix if isinstance(prefix, str) else None


#: What core nodes write, where the cloud's name has no extension.
_EXTENSIONS = {"audio": ".flac", "gifs": ".mp4", "3d": ".glb", "latents": ".latent"}


def extension(name: str, key: str, node: Mapping[str, Any] | None) -> str:
    """A file's extension, by its name or else by what its node writes under `key`."""
    written = posixpath.splitext(name)[1].lower()
    if written:
        return written
    class_type = str(node.get("class_type", "")) if node else ""
    if key == "images" and "video" in class_type.lower():
        return ".mp4"
    if "webp" in class_type.lower():
        return ".webp"
    return _EXTENSIONS.get(key, ".png")
