"""Assets in the form of ComfyUI's assets API: records, and what an export is made of.

Null fields are left out of every answer: the web interface refuses a whole page for one.
What a client asks is read by `asset_requests`, which is loaded with the first request.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from msgspec import Struct

from proxy.translate import codec
from proxy.translate.errors import Kind, LocalError
from proxy.translate.media_types import essence, media_type
from proxy.translate.names import Place
from proxy.translate.times import rfc3339

Sort = Literal["created_at", "updated_at", "name", "size", "last_access_time"]
Order = Literal["desc", "asc"]

#: Letters of a cursor and of a name.
MAX_CURSOR, MAX_NAME = 8192, 512

#: The tag of a record whose content is gone; only the server gives and takes it.
MISSING = "missing"

_HASH = re.compile(r"blake3:([0-9a-f]{64})")
_SUBFOLDERS = frozenset({"3d", "pasted", "painter", "threed", "webcam"})
_VIEWED = ("image/", "video/", "audio/", "text/")
_JOB_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    r"|0{8}-0{4}-0{4}-0{4}-0{12}|f{8}-f{4}-f{4}-f{4}-f{12}"
)
_DIGITS = re.compile(r"[0-9a-f]{64}")
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,15}")


class AssetError(LocalError):
    """Raised for a refusal of the assets API: `{"error": {"code", "message", "details"}}`."""

    def __init__(
        self, code: str, message: str, *, kind: Kind = "invalid", **details: object
    ) -> None:
        super().__init__(code, message, kind=kind, extra_info=details)

    @classmethod
    def of(cls, error: LocalError) -> AssetError:
        """Return a `LocalError` in this form."""
        if isinstance(error, AssetError):
            return error
        made = cls(error.type.upper(), error.message, kind=error.kind, **error.extra_info)
        made.retry_after = error.retry_after
        return made

    def body(self) -> dict[str, Any]:
        """Return the nested form."""
        return {"error": {"code": self.type, "message": self.message, "details": self.extra_info}}


class Asset(Struct, frozen=True):
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
    automatic: frozenset[str] = frozenset()

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


class CloudAsset(Struct, frozen=True):
    """What the cloud tells of an output: `hash` is hexadecimal, `size` in bytes; both may come
    later."""

    node: str
    key: str
    index: int
    name: str
    hash: str | None
    size: int | None


def of_cloud(item: Mapping[str, Any]) -> CloudAsset | None:
    """Return an item of the cloud's `GET /api/jobs/{id}/assets`, `None` if it belongs to no node.

    The hash has two names, with and without its algorithm before it, and a size may be text.
    """
    node, index = item.get("node_id"), item.get("output_index")
    if not isinstance(node, str | int) or isinstance(node, bool):
        return None
    written = item.get("hash") or item.get("asset_hash")
    digits = written.lower().removeprefix("blake3:") if isinstance(written, str) else ""
    size = item.get("size")
    if isinstance(size, str) and size.isascii() and size.isdigit():
        size = int(size)
    return CloudAsset(
        str(node),
        str(item.get("output_key") or ""),
        index if isinstance(index, int) else 0,
        str(item.get("name") or ""),
        digits if _DIGITS.fullmatch(digits) else None,
        size if type(size) is int and 0 <= size < 2**62 else None,
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
    """Return the record of a file, with the tags that its place gives; `content` is hash and
    size."""
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
    """Return the `metadata` of a picture, as it is stored; `width` and `height` are in pixels."""
    return codec.dump_bytes({"kind": "image", "width": width, "height": height})


def of_model(member: str, id_: str, folder: str, name: str, now: int) -> Asset:
    """Return the record of a model of the cloud, whose size and hash are unknown."""
    tags = ("models", f"model_type:{folder}")
    base, path = posixpath.basename(name), f"{folder}/{name}"
    return Asset(
        *(member, id_, base, "models", path, None, None, None, None, now, now),
        tags=tuple(sorted(tags)),
        automatic=frozenset(tags),
    )


def shown(asset: Asset, preview: Asset | None = None, **more: object) -> dict[str, Any]:
    """Return a record as clients get it; `preview` is the record that it names, if that exists."""
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
        "created_at": rfc3339(asset.created_at),
        "updated_at": rfc3339(asset.updated_at),
        "last_access_time": None
        if asset.last_access_time is None
        else rfc3339(asset.last_access_time),
        **more,
    }
    return {name: value for name, value in fields.items() if value is not None}


def of_upload(asset: Asset) -> dict[str, Any]:
    """Return the `asset` of an answer of `POST /upload/image`, which has its own names."""
    return {
        "id": asset.id,
        "name": asset.name,
        "asset_hash": f"blake3:{asset.hash}",
        "size": asset.size,
        "mime_type": asset.media_type,
        "tags": list(asset.tags),
    }


def preview_url(asset: Asset) -> str | None:
    """Return where a browser gets the content to show it, `None` if it cannot be shown."""
    if asset.is_model or asset.is_missing or not (asset.media_type or "").startswith(_VIEWED):
        return None
    query = {"type": asset.type, "filename": posixpath.basename(asset.path)}
    if asset.place.subfolder:
        query["subfolder"] = asset.place.subfolder
    return f"/api/view?{urlencode(query)}"


def stored_name(hash_: str, filename: str) -> str:
    """Return the file name of an upload: its hash, and its extension, if that is a valid one."""
    extension = posixpath.splitext(filename)[1]
    kept = _EXTENSION.fullmatch(extension)
    return f"{hash_}{extension if kept else ''}"


# --- what a client asks for ----------------------------------------------------------------------


class Cursor(NamedTuple):
    """The last record of a page: its value in the order (times in µs since 1970), and its id."""

    value: str | int
    id: str


class AssetFilter(Struct, frozen=True):
    """Which records are meant; `hash` is hexadecimal, `""` where no record can have it."""

    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    name_contains: str = ""
    hash: str | None = None

    @property
    def may_be_models(self) -> bool:
        """Whether models can be among the records, by the tags that a file of a client has."""
        files = {"input", "output", "temp"}
        return not files & set(self.all) and not (self.any and set(self.any) <= files)


class AssetQuery(Struct, frozen=True):
    """A page of records. `offset` does not count with a cursor."""

    filter: AssetFilter = AssetFilter()
    limit: int = 20
    offset: int = 0
    sort: Sort = "created_at"
    order: Order = "desc"
    after: Cursor | None = None


def read_hash(text: str) -> str:
    """Return the hexadecimal digits of `blake3:…`. Raises `AssetError` (400)."""
    match = _HASH.fullmatch(text.strip().lower())
    if match is None:
        raise AssetError("INVALID_HASH", "A hash has the form blake3: and 64 hexadecimal digits.")
    return match[1]


def write_cursor(cursor: Cursor, sort: Sort, order: Order) -> str:
    """Return a cursor as clients get it."""
    packed = codec.dump_bytes({"s": sort, "v": cursor.value, "id": cursor.id, "o": order})
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(text: str, sort: Sort, order: Order) -> Cursor:
    """Return the cursor that a client sends back. Raises `AssetError` for a cursor of another
    list."""
    refused = AssetError("INVALID_CURSOR", "The cursor does not belong to this list.")
    if sort == "last_access_time" or not 0 < len(text) <= MAX_CURSOR:
        raise refused
    try:
        read = codec.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise refused from None
    if not isinstance(read, Mapping) or (read.get("s"), read.get("o")) != (sort, order):
        raise refused
    value: Any = read.get("v")
    id_ = read.get("id")
    is_value = type(value) is str if sort == "name" else type(value) is int and abs(value) < 2**62
    if not is_value or not isinstance(id_, str):
        raise refused
    return Cursor(value, id_)


def destination(tags: Sequence[str]) -> str:
    """Return the folder that the tags of an upload name. Raises `AssetError` (400)."""
    roots = sorted({tag for tag in tags if tag in ("input", "models", "output")})
    if len(roots) != 1:
        raise AssetError("INVALID_BODY", "Tags must name exactly one of input, models, output.")
    if roots[0] == "models":
        types = [tag for tag in tags if tag.startswith("model_type:")]
        if len(types) != 1:
            raise AssetError("INVALID_BODY", "Tags of a model must name exactly one model_type:….")
        raise AssetError(
            "INVALID_BODY", "Models cannot be uploaded from here; import them at cloud.comfy.org."
        )
    return roots[0]
