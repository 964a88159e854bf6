"""Pictures as nodes of packs read them, and results as their clients want them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
from pathlib import Path

from msgspec import Struct

from proxy.files.opened_pictures import NotAPictureError, TooManyPixelsError
from proxy.files.service import Files
from proxy.packs import picture_tasks
from proxy.packs.nodes import Mask, PackNodeError
from proxy.translate.errors import LocalError


class Decoded(Struct, frozen=True):
    """A picture for the cloud: which file has it and its extension, which has its mask (a grey
    PNG), and its size."""

    path: Path
    extension: str
    mask: Path | None
    width: int
    height: int


def from_base64(text: str) -> bytes:
    """Return the bytes of a text; characters that are not of the alphabet are skipped.

    Raises `PackNodeError`.
    """
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise PackNodeError("binascii.Error", str(error)) from error


async def decode(
    files: Files, member: str, source: Path, mask: Mask, converted: Path, converted_mask: Path
) -> Decoded:
    """Read a picture as a pack does, in a form that core's loaders read alike.

    What is not taken as it is goes to the files `converted` and `converted_mask`. Raises
    `PackNodeError` in the words of Pillow, `LocalError`.
    """
    targets = [converted, converted_mask]
    try:
        found = await files.picture_workers.run(
            member, picture_tasks.decode, [source], targets, mask=mask.name
        )
    except NotAPictureError as error:
        raise _in_words_of_pillow(error) from error
    return Decoded(
        converted if found["is_converted"] else source,
        found["extension"],
        converted_mask if found["has_mask"] else None,
        found["width"],
        found["height"],
    )


async def encode(files: Files, member: str, source: Path, format_: str, target: Path) -> None:
    """Write a picture of the cloud in a format to the file `target`, without texts.

    Raises `PackNodeError` in the words of Pillow, `LocalError`.
    """
    try:
        await files.picture_workers.run(
            member, picture_tasks.encode, [source], [target], format=format_
        )
    except NotAPictureError as error:
        raise _in_words_of_pillow(error) from error


def _in_words_of_pillow(error: NotAPictureError) -> PackNodeError:
    if isinstance(error, TooManyPixelsError):
        return PackNodeError("PIL.Image.DecompressionBombError", str(error))
    if error.kind == "UnidentifiedImageError":
        shown = f"cannot identify image file {io.BytesIO()!r}"
        return PackNodeError("PIL.UnidentifiedImageError", shown)
    message = re.sub(r" \(\d+ bytes not processed\)$", "", error.reason)
    return PackNodeError(error.kind, message)


#: Bytes of a preview that is re-encoded on the way; a larger one is left out.
_PREVIEW_BYTES = 1 << 20


async def jpeg(files: Files, member: str, png: bytes) -> bytes | None:
    """Return a preview as JPEG, `None` for one that is too large or no PNG, or if there can be no
    process or file for it."""
    if len(png) > _PREVIEW_BYTES:
        return None
    try:
        async with files.uploads.partial() as source, files.uploads.partial() as target:
            await asyncio.to_thread(source.write_bytes, png)
            await files.picture_workers.run(member, picture_tasks.jpeg, [source], [target])
            return await asyncio.to_thread(target.read_bytes)
    except (NotAPictureError, LocalError, OSError):
        return None
