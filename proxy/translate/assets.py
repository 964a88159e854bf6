"""Assets in the form of ComfyUI's assets API, and the bodies that clients send to it.

Null fields are left out of every answer: the web interface refuses a whole page for one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlencode

from pydantic import BaseModel, Field, StringConstraints

from proxy.translate import codec
from proxy.translate.asset_query import (
    MISSING,
    MOST_NAME,
    MOST_TAGS,
    AssetError,
    checked,
    split_tags,
)
from proxy.translate.names import Place, media_type

#: Letters of a tag, and bytes of `user_metadata`.
MOST_TAG, MOST_METADATA = 256, 64 * 1024

_SUBFOLDERS = frozenset({"3d", "pasted", "painter", "threed", "webcam"})
_VIEWED = ("image/", "video/", "audio/", "text/")
_JOB_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    r"|0{8}-0{4}-0{4}-0{4}-0{12}|f{8}-f{4}-f{4}-f{4}-f{12}"
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DIGITS = re.compile(r"[0-9a-f]{64}")
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Asset:
    """A record of a content that is one of the member's files, or a model of the cloud.

    `type` is `input`, `output`, `temp` or `models`; `path` is below it and begins, of a model, with
    its folder. `hash` is BLAKE3 in hexadecimal and `size` in bytes, `None` until they are known.
    `job` made it; `preview` is the id of another record. Times are in µs since 1970. `automatic`
    are those of its `tags` that are not the client's to remove.
    """

    member: str
    id: str
    name: str
    type: str
    path: str
    hash: str | None
    size: int | None
    media_type: str | None
    job: str | None
    created_at: int
    updated_at: int
    preview: str | None = None
    user_metadata: bytes = b"{}"
    metadata: bytes | None = None
    last_access_time: int | None = None
    deleted: bool = False
    tags: tuple[str, ...] = ()
    automatic: frozenset[str] = field(default=frozenset())

    @property
    def place(self) -> Place:
        """Where the file is; for models the folder and the name in it."""
        return Place(self.type, self.path)

    @property
    def is_missing(self) -> bool:
        """Whether the content is gone."""
        return MISSING in self.tags

    @property
    def is_picture(self) -> bool:
        """Whether its name is that of a picture."""
        return (self.media_type or "").startswith("image/")

    @property
    def is_model(self) -> bool:
        """Whether it is a model of the cloud, whose content nobody hands out."""
        return self.type == "models"


@dataclass(frozen=True, slots=True)
class CloudAsset:
    """What the cloud tells of an output: `hash` is hexadecimal, `size` in bytes; both may come
    later."""

    node: str
    key: str
    index: int
    name: str
    hash: str | None
    size: int | None


def of_cloud(item: Mapping[str, Any]) -> CloudAsset | None:
    """An item of the cloud's `GET /api/jobs/{id}/assets`, `None` for one of no node.

    The hash has two names, with and without its algorithm before it, and a size may be text.
    """
    node, index = item.get("node_id"), item.get("output_index")
    if not isinstance(node, str | int) or isinstance(node, bool):
        return None
    told = item.get("hash") or item.get("asset_hash")
    digits = told.lower().removeprefix("blake3:") if isinstance(told, str) else ""
    size = item.get("size")
    if isinstance(size, str) and size.isascii() and size.isdigit():
        size = int(size)
    is_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**62
    return CloudAsset(
        str(node),
        str(item.get("output_key") or ""),
        index if isinstance(index, int) else 0,
        str(item.get("name") or ""),
        digits if _DIGITS.fullmatch(digits) else None,
        cast(int, size) if is_size else None,
    )


def of_file(
    member: str,
    id_: str,
    place: Place,
    now: int,
    *,
    content: tuple[str | None, int | None] = (None, None),
    metadata: bytes | None = None,
    job: str | None = None,
    extra: Sequence[str] = (),
) -> Asset:
    """The record of a file, with the tags that its place gives; `content` is hash and size."""
    name = posixpath.basename(place.path)
    automatic = {place.type}
    if place.type == "input" and place.subfolder in _SUBFOLDERS:
        automatic.add(place.subfolder)
    return Asset(
        member,
        id_,
        name,
        place.type,
        place.path,
        *content,
        essence(media_type(name)),
        job,
        now,
        now,
        metadata=metadata,
        tags=tuple(sorted({*automatic, *extra})),
        automatic=frozenset(automatic),
    )


def picture_metadata(width: int, height: int) -> bytes:
    """The `metadata` of a picture, as it is stored; `width` and `height` are in pixels."""
    return codec.dump_bytes({"kind": "image", "width": width, "height": height})


def of_model(member: str, id_: str, folder: str, name: str, now: int) -> Asset:
    """The record of a model of the cloud, which tells neither its size nor its hash."""
    tags = ("models", f"model_type:{folder}")
    base, path = posixpath.basename(name), f"{folder}/{name}"
    return Asset(
        *(member, id_, base, "models", path, None, None, None, None, now, now),
        tags=tuple(sorted(tags)),
        automatic=frozenset(tags),
    )


def shown(asset: Asset, preview: Asset | None = None, **more: object) -> dict[str, Any]:
    """A record as clients get it; `preview` is the one that it names, if it is there."""
    below = asset.path.partition("/")[2] if asset.is_model else asset.path
    job = asset.job if asset.job is not None and _JOB_ID.fullmatch(asset.job) else None
    nominated = preview is not None and preview_url(preview) is not None
    fields: dict[str, Any] = {
        "id": asset.id,
        "name": asset.name,
        "hash": None if asset.hash is None else f"blake3:{asset.hash}",
        "loader_path": below,
        "display_name": asset.path,
        "size": asset.size,
        "mime_type": asset.media_type,
        "tags": list(asset.tags),
        "preview_url": preview_url(preview if nominated and preview else asset),
        "preview_id": asset.preview if nominated else None,
        "user_metadata": codec.loads(asset.user_metadata),
        "metadata": None if asset.metadata is None else codec.loads(asset.metadata),
        "job_id": job,
        "prompt_id": job,
        "created_at": time(asset.created_at),
        "updated_at": time(asset.updated_at),
        "last_access_time": None
        if asset.last_access_time is None
        else time(asset.last_access_time),
        **more,
    }
    return {name: value for name, value in fields.items() if value is not None}


def of_upload(asset: Asset) -> dict[str, Any]:
    """The `asset` of an answer of `POST /upload/image`, which has its own names."""
    return {
        "id": asset.id,
        "name": asset.name,
        "asset_hash": f"blake3:{asset.hash}",
        "size": asset.size,
        "mime_type": asset.media_type,
        "tags": list(asset.tags),
    }


def preview_url(asset: Asset) -> str | None:
    """Where a browser gets the content to show it, `None` if it cannot be shown."""
    if asset.is_model or asset.is_missing or not (asset.media_type or "").startswith(_VIEWED):
        return None
    query = {"type": asset.type, "filename": posixpath.basename(asset.path)}
    if asset.place.subfolder:
        query["subfolder"] = asset.place.subfolder
    return f"/api/view?{urlencode(query)}"


def time(microseconds: int) -> str:
    """A time in µs since 1970 in UTC; the web interface takes no other zone than `Z`."""
    at = datetime(1970, 1, 1) + timedelta(microseconds=microseconds)  # noqa: DTZ001 (UTC)
    return f"{at.isoformat()}Z"


def essence(type_: str) -> str:
    """A media type without its parameters."""
    return type_.partition(";")[0].strip()


# --- bodies --------------------------------------------------------------------------------------

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_NAME)]
_Id = Annotated[
    str, StringConstraints(to_lower=True, pattern=f"^(?i:{_UUID.pattern})$", max_length=36)
]
_Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_TAG, strict=True)
]
_MediaType = Annotated[str, StringConstraints(max_length=256, pattern=r"^[\w.+-]+/[\w.+-]+")]


class Changes(BaseModel):
    """What `PUT /api/assets/{id}` changes."""

    name: _Name | None = None
    user_metadata: dict[str, Any] | None = None
    preview_id: _Id | None = None


class NewAsset(BaseModel):
    """What a client says of a content for which it wants a record."""

    name: _Name | None = None
    tags: Annotated[list[_Tag], Field(max_length=MOST_TAGS)] = []
    user_metadata: dict[str, Any] = {}
    mime_type: _MediaType | None = None
    preview_id: _Id | None = None
    hash: str | None = None

    @property
    def metadata(self) -> bytes:
        """`user_metadata` as it is stored."""
        return packed(self.user_metadata)

    @property
    def distinct_tags(self) -> tuple[str, ...]:
        """The tags, each once."""
        return tuple(dict.fromkeys(self.tags))


class _Tags(BaseModel):
    tags: Annotated[list[_Tag], Field(min_length=1, max_length=MOST_TAGS)]


class Roots(BaseModel):
    """What `POST /api/assets/seed` looks through; none means all."""

    roots: Annotated[
        list[Literal["models", "input", "output"]], Field(min_length=1, max_length=10)
    ] = ["models", "input", "output"]


def read_changes(body: object) -> dict[str, Any]:
    """Columns of a record and their new values. Raises `AssetError`."""
    changes = checked(Changes, body, "INVALID_BODY")
    values = {
        "name": changes.name,
        "user_metadata": None if changes.user_metadata is None else packed(changes.user_metadata),
        "preview": changes.preview_id,
    }
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        raise AssetError("INVALID_BODY", "Send at least one of name, user_metadata, preview_id.")
    return given


def read_tags_body(body: object) -> list[str]:
    """The tags that a client adds or removes, each once. Raises `AssetError`."""
    tags = list(dict.fromkeys(checked(_Tags, body, "INVALID_BODY").tags))
    refuse_system_tags(tags)
    return tags


def read_new(body: object) -> NewAsset:
    """The body of `POST /api/assets/from-hash`. Raises `AssetError`."""
    new = checked(NewAsset, body, "INVALID_BODY")
    if not new.hash:
        raise AssetError("INVALID_BODY", "Send the hash of the content.")
    packed(new.user_metadata)
    refuse_system_tags(new.tags)
    return new


def read_upload(fields: Mapping[str, str], tags: Iterable[str]) -> NewAsset:
    """The fields of a multipart upload beside its file. Raises `AssetError`.

    `tags` are the values of all its parts: each a JSON list, values with commas, or one tag.
    """
    if "id" in fields:
        raise AssetError("UNSUPPORTED_FIELD", "The server gives ids; leave id out.", field="id")
    known = {"name", "mime_type", "preview_id", "hash"}
    value: dict[str, Any] = {name: fields[name] for name in known if fields.get(name)}
    if fields.get("user_metadata"):
        value["user_metadata"] = _parsed(fields["user_metadata"], "user_metadata")
    value["tags"] = [tag for text in tags for tag in _form_tags(text)]
    if "name" in value:
        value["name"] = posixpath.basename(value["name"].replace("\\", "/")) or "upload"
    new = checked(NewAsset, value, "INVALID_BODY")
    packed(new.user_metadata)
    refuse_system_tags(new.tags)
    return new


def destination(tags: Sequence[str]) -> str:
    """The folder that the tags of an upload name. Raises `AssetError` (400)."""
    roots = sorted({tag for tag in tags if tag in ("input", "models", "output")})
    if len(roots) != 1:
        raise AssetError("INVALID_BODY", "Tags must name exactly one of input, models, output.")
    if roots[0] == "models":
        types = [tag for tag in tags if tag.startswith("model_type:")]
        if len(types) != 1:
            raise AssetError("INVALID_BODY", "Tags of a model must name exactly one model_type:….")
        raise AssetError(
            "INVALID_BODY", "Comfy Cloud takes no models from here; import them at cloud.comfy.org."
        )
    return roots[0]


def refuse_system_tags(tags: Iterable[str]) -> None:
    """Raises `AssetError` for a tag that only the server gives and takes."""
    if MISSING in tags:
        raise AssetError(
            "SYSTEM_TAG_FORBIDDEN", "Only the server adds and removes this tag.", tag=MISSING
        )


def stored_name(hash_: str, filename: str) -> str:
    """The file name of an upload: its hash, and the extension if it is one."""
    extension = posixpath.splitext(filename)[1]
    kept = _EXTENSION.fullmatch(extension)
    return f"{hash_}{extension if kept else ''}"


def label(new: NewAsset, filename: str) -> str:
    """The name of an upload's record: as it was given, else of the file, else `upload`."""
    return (new.name or posixpath.basename(filename.replace("\\", "/")) or "upload")[:MOST_NAME]


def packed(user_metadata: Mapping[str, Any]) -> bytes:
    """A client's object as it is stored. Raises `AssetError` beyond the bound."""
    data = codec.dump_bytes(user_metadata)
    if len(data) > MOST_METADATA:
        raise AssetError(
            "INVALID_BODY", f"user_metadata has more than {MOST_METADATA} bytes.", max=MOST_METADATA
        )
    return data


def _form_tags(text: str) -> Sequence[str]:
    text = text.strip()
    if text.startswith("["):
        listed = _parsed(text, "tags")
        return [tag.strip() if isinstance(tag, str) else tag for tag in listed]
    return split_tags([text])


def _parsed(text: str, name: str) -> Any:
    try:
        return codec.loads(text)
    except ValueError:
        raise AssetError("INVALID_BODY", f"{name} must be JSON.", field=name) from None
