"""Binary frames: those of the cloud as values, and the frames of a local ComfyUI in their bytes.

Big-endian unsigned 32-bit integers, then bytes. The cloud's are read in every documented form;
a client's are written as ComfyUI does:

* 1 `PREVIEW_IMAGE`: `[1][format: 1 JPEG, 2 PNG][image]`
* 3 `TEXT`: `[3][length][node id][text]`
* 4 `PREVIEW_IMAGE_WITH_METADATA`: `[4][length][JSON][image]`
"""

from __future__ import annotations

import re
from typing import TypeAlias

from msgspec import Struct

from proxy.translate import codec
from proxy.translate.events import Data, NodeText, Preview, with_added

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

#: The first bytes of frames of the types that documents list.
LISTED_FRAMES = frozenset(
    kind.to_bytes(4) for kind in (PREVIEW_IMAGE, TEXT, PREVIEW_IMAGE_WITH_METADATA)
)

_JOB_ID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_FORMATS = {"image/jpeg": 1, "image/png": 2}

#: The fields of the JSON in type 4.
_METADATA = (
    *("node_id", "prompt_id", "display_node_id", "parent_node_id", "real_node_id", "image_type"),
)


class CloudPicture(Struct, frozen=True):
    """A preview of the cloud. Type 1 carries no ids at all, type 4 those of job and node."""

    image: bytes
    image_type: str
    prompt_id: str | None = None
    node_id: str | None = None
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None

    @property
    def leads(self) -> bool:
        """Whether the matching `progress` follows, as it does after frames with metadata."""
        return self.node_id is not None


class CloudText(Struct, frozen=True):
    """A node's text; only the long form names the job."""

    node_id: str
    text: str
    prompt_id: str | None = None


CloudFrame: TypeAlias = CloudPicture | CloudText


def parse_frame(data: bytes) -> CloudFrame | None:
    """Read a frame of the cloud; `None` for a type that ComfyUI does not know or a broken frame.

    A text is in the long form, `[length][prompt id][length][node id][text]`, if it begins with a
    job's id: those are UUIDs, which ids of nodes are not. What the cloud pushed as its feature
    flags need not be known for that.
    """
    kind, rest = _number(data)
    try:
        if kind == PREVIEW_IMAGE:
            return CloudPicture(rest[4:], _image_type(rest[4:])) if len(rest) > 4 else None
        if kind == PREVIEW_IMAGE_WITH_METADATA:
            return _picture_with_metadata(rest)
        if kind == TEXT:
            return _text_frame(rest)
    except ValueError:
        return None
    return None


def without_secret(data: bytes, secret: str) -> bytes | None:
    """Return a frame of the cloud in which a text does not show a secret; `None` for a picture that
    shows it, or its metadata."""
    kind, rest = _number(data)
    if kind == PREVIEW_IMAGE_WITH_METADATA:
        try:
            about, _ = _counted(rest)
            if codec.may_show(about, secret) and (
                codec.loads_text(about) != codec.redact(codec.loads_text(about), secret)
            ):
                return None
        except ValueError:
            return None
    if secret.encode() not in data:
        return data
    frame = parse_frame(data)
    if not isinstance(frame, CloudText) or secret in frame.node_id:
        return None
    return data.replace(secret.encode(), codec.REDACTED.encode())


def encode_preview(preview: Preview, *, metadata: bool) -> bytes | None:
    """Return a frame of type 4 if the socket asked for metadata, otherwise of type 1.

    `None` if the picture has no number in type 1 (it knows JPEG and PNG alone).
    """
    if metadata:
        data: Data = {name: getattr(preview, name) for name in _METADATA}
        if preview.metadata:
            data = with_added(data, codec.loads(preview.metadata))
        about = codec.dump_bytes(data)
        return _frame(PREVIEW_IMAGE_WITH_METADATA, len(about), about, preview.image)
    number = _FORMATS.get(preview.image_type)
    return None if number is None else _frame(PREVIEW_IMAGE, number, preview.image)


def encode_text(text: NodeText) -> bytes:
    """Return a frame of type 3 in the short form, the only one that released ComfyUI servers
    send."""
    node_id = text.node_id.encode()
    return _frame(TEXT, len(node_id), node_id, text.text.encode())


def _picture_with_metadata(rest: bytes) -> CloudPicture | None:
    about, image = _counted(rest)
    metadata = codec.loads_text(about)
    if not isinstance(metadata, dict) or not image:
        return None
    prompt_id, node_id = metadata.get("prompt_id"), metadata.get("node_id")
    shown, real = (metadata.get(name) or node_id for name in ("display_node_id", "real_node_id"))
    ids = [prompt_id, node_id, shown, metadata.get("parent_node_id"), real]
    known = ids if node_id is not None else ids[:1]
    return CloudPicture(
        image, _image_type(image), *(None if id_ is None else str(id_) for id_ in known)
    )


def _text_frame(rest: bytes) -> CloudText:
    first, rest = _counted(rest)
    if _JOB_ID.fullmatch(first):
        node_id, text = _counted(rest)
        return CloudText(node_id.decode(), text.decode(), first.decode())
    return CloudText(first.decode(), rest.decode())


def _image_type(image: bytes) -> str:
    if image.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if image.startswith(b"\x89PNG"):
        return "image/png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


def _number(data: bytes) -> tuple[int, bytes]:
    return int.from_bytes(data[:4], "big") if len(data) >= 4 else -1, data[4:]


def _counted(data: bytes) -> tuple[bytes, bytes]:
    length, rest = _number(data)
    if not 0 <= length <= len(rest):
        raise ValueError("the frame is shorter than it says")
    return rest[:length], rest[length:]


def _frame(*parts: int | bytes) -> bytes:
    return b"".join(part.to_bytes(4) if isinstance(part, int) else part for part in parts)
