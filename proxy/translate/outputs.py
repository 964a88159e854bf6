"""The outputs in lists of jobs, as ComfyUI counts them.

Source: `GET /api/jobs` of ComfyUI. Texts are no outputs there, but a job that has nothing else
shows the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from proxy.translate.reading import list_of, object_of

#: Keys of outputs that are shown whatever the item is.
_SHOWN = frozenset({"images", "video", "audio", "3d", "text"})
_MODELS = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_TEXTS = (".txt", ".md", ".json")

#: What stands for a job, the best first.
_SAVED, _TEMPORARY, _TEXT_FILE, _TEXT, _HIDDEN = range(5)

#: Characters of a text that stands for a job.
MAX_TEXT = 1024


class Summary(Struct, frozen=True):
    """How many outputs a job has, how many of them can be shown, and the one that stands for it."""

    count: int
    previewable: int
    preview: dict[str, Any] | None


def summary(outputs: Mapping[str, Any]) -> Summary:
    """Return the summary of a job's outputs for a list of jobs.

    The first saved picture, video, sound or model stands for the job; else the first temporary one,
    else the first text file, else the first text.
    """
    count = previewable = 0
    best, preview = _HIDDEN, None
    for node_id, media, item in _items(outputs):
        if (file := _file_of(item)) is not None:
            rank = _rank(media, file)
            count += 1
            previewable += rank < _HIDDEN
        elif media == "text":
            rank, file = _TEXT, _text_item(item)
        else:
            continue
        if rank < best:
            best, preview = rank, {"mediaType": media, **file, "nodeId": node_id}
    return Summary(count, previewable, preview)


def normalized(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a job as its detail has them: names of models as items, and no null."""
    return {
        node_id: {
            media: [_file_of(item) or item for item in items if item is not None]
            if media != "animated" and isinstance(items, list)
            else items
            for media, items in output.items()
        }
        if isinstance(output, dict)
        else output
        for node_id, output in outputs.items()
    }


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the items of lists, each with its node and its key; `animated` has flags."""
    for node_id, output in outputs.items():
        for media, items in object_of(output).items():
            if media != "animated":
                for item in list_of(items):
                    yield node_id, media, item


def _file_of(item: object) -> dict[str, Any] | None:
    """Return an item that counts as an output; the name of a model stands for one."""
    if isinstance(item, dict):
        return item
    if isinstance(item, str) and item.lower().endswith(_MODELS):
        return {"filename": item, "type": "output", "subfolder": "", "mediaType": "3d"}
    return None


def _rank(media: str, item: Mapping[str, Any]) -> int:
    """Return how well a file stands for its job: less is better, and `_HIDDEN` is not shown."""
    name, format_ = item.get("filename"), item.get("format")
    name = name.lower() if isinstance(name, str) else ""
    if media == "text" or name.endswith(_TEXTS):
        return _TEXT_FILE
    played = isinstance(format_, str) and format_.startswith(("video/", "audio/"))
    if media in _SHOWN or played or name.endswith(_MODELS):
        return _SAVED if item.get("type") == "output" else _TEMPORARY
    return _HIDDEN


def _text_item(item: object) -> dict[str, Any]:
    """Return a text as a preview, cut where it is long. What was a tuple in Python is its first."""
    if isinstance(item, list):
        item = item[0] if item else ""
    text = str(item)
    return (
        {"content": text}
        if len(text) <= MAX_TEXT
        else {
            "content": text[:MAX_TEXT],
            "truncated": True,
        }
    )
