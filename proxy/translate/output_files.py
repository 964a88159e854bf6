"""The files in outputs of nodes: which entries are files, under which keys, and of which folder."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from proxy.translate.media_types import kind
from proxy.translate.reading import list_of, object_of

#: What only the cloud says of a file.
_CLOUD_KEYS = frozenset(
    {
        *("asset", "asset_hash", "asset_id", "created_at", "display_name", "hash", "id"),
        *("mime_type", "preview_id", "preview_url", "short_url", "size", "tags", "url"),
    }
)
#: Nodes that write to the `temp` folder.
_TEMPORARY = frozenset({"PreviewImage", "PreviewAudio", "PreviewVideo", "MaskPreview"})


class OutputNode(NamedTuple):
    """A node of a job that has an output; `in_graph` is what the graph has under its `id`."""

    member: str
    prompt_id: str
    id: str
    in_graph: Mapping[str, Any] | None
    account: str


class OutputItem(NamedTuple):
    """A file of an output as the cloud reports it: the entry at `position` under `key`, with its
    name on the cloud, which is opaque."""

    key: str
    position: int
    cloud_name: str
    item: Mapping[str, Any]


def is_file(item: object) -> bool:
    """Return whether an entry of an output's list is a file."""
    return isinstance(item, Mapping) and isinstance(item.get("filename"), str)


def files(output: Mapping[str, Any]) -> Iterator[OutputItem]:
    """Yield each file."""
    for key, value in output.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                if is_file(item):
                    yield OutputItem(key, index, item["filename"], item)


def files_of(outputs: object) -> Iterator[tuple[str, OutputItem]]:
    """Yield each file in the outputs of a job, with its node."""
    for node, output in object_of(outputs).items():
        for file in files(object_of(output)):
            yield node, file


def with_core_keys(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output with videos where core ComfyUI has them: under `images`, with `animated`.

    The cloud's worker puts them under a singular `video`, and the same file again under `videos`
    or a node pack's key. What stands under another key already is not repeated.
    """
    videos = [item for item in list_of(output.get("video")) if is_file(item)]
    return _with_videos(output, videos) if videos else dict(output)


def _with_videos(output: Mapping[str, Any], videos: list[Any]) -> dict[str, Any]:
    """Return an output with the files under `video` where core ComfyUI has them."""
    others = {key: value for key, value in output.items() if key not in ("video", "videos")}
    names = {item["filename"] for item in videos}
    rest = [item for item in list_of(output.get("videos")) if not _is_named(item, names)]
    elsewhere = {file.cloud_name for file in files(others)}
    moved = [item for item in videos if item["filename"] not in elsewhere]
    if moved:
        others["images"] = [*list_of(others.get("images")), *moved]
    if moved or any(_is_named(item, names) for item in list_of(others.get("images"))):
        others.setdefault("animated", [True])
    if rest:
        others["videos"] = rest
    return others


def _is_named(item: Any, names: set[str]) -> bool:
    return is_file(item) and item["filename"] in names


def own_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a node pack adds to a file, beside the three that name it.

    What only the cloud says is left out, and so is every address: it may be signed.
    """
    return {
        key: value
        for key, value in item.items()
        if key not in ("filename", "subfolder", "type")
        and key not in _CLOUD_KEYS
        and not (isinstance(value, str) and value.startswith(("http://", "https://")))
    }


def asset_ids(path: str, asset: str) -> dict[str, str]:
    """Return what an item says of the record of its file: a picture is its own preview."""
    return {"id": asset, **({"preview_id": asset} if kind(path) == "image" else {})}


def output_type(item: Mapping[str, Any], node: Mapping[str, Any] | None) -> str:
    """Return the folder of the file for a client: `temp` for previews, else what the cloud says.

    The cloud keeps outputs and previews in one bucket, so its `type` may be missing or vague.
    """
    class_type = node.get("class_type") if node else None
    stated = item.get("type")
    if stated == "input":
        return "input"
    if class_type in _TEMPORARY:
        return "temp"
    return stated if stated in ("output", "temp") else "output"


#: What core nodes write, where the cloud's name has no extension.
_EXTENSIONS = {"audio": ".flac", "gifs": ".mp4", "3d": ".glb", "latents": ".latent"}


def extension(name: str, key: str, node: Mapping[str, Any] | None) -> str:
    """Return a file's extension, from its name or else from what its node writes under `key`."""
    written = posixpath.splitext(name)[1].lower()
    if written:
        return written
    class_type = str(node.get("class_type", "")) if node else ""
    if key == "images" and "video" in class_type.lower():
        return ".mp4"
    if "webp" in class_type.lower():
        return ".webp"
    return _EXTENSIONS.get(key, ".png")
