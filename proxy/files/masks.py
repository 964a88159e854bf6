"""Masks, put onto their pictures as ComfyUI 0.3.64 does."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from proxy.files.pictures import NotAPictureError, opened
from proxy.translate.errors import LocalError
from proxy.translate.names import TYPES, Place, resolve, split_annotated


def original_place(original: Mapping[str, Any]) -> Place | None:
    """Where `original_ref` says that the picture is, `None` if it is refused.

    Its fields are `filename` (annotated or not), `subfolder` and `type` (`output` if absent). A
    refusal is no error to the client: ComfyUI answers 200 and stores nothing. Raises `LocalError`
    (400) where ComfyUI fails: without a filename, or with one that is not a string.
    """
    filename, subfolder = original.get("filename"), original.get("subfolder", "")
    if not isinstance(filename, str) or not isinstance(subfolder, str):
        raise LocalError(
            400,
            "invalid_original_ref",
            'original_ref needs a filename: {"filename": "cat.png", "subfolder": "", '
            '"type": "input"}.',
        )
    name, annotated = split_annotated(filename)
    if not name or name.startswith("/") or ".." in name:
        return None
    type_ = annotated or original.get("type", "output")
    if type_ not in TYPES:
        return None
    folder = resolve(type_, subfolder)
    path = None if folder is None else resolve(type_, folder, name)
    return Place(type_, path) if path else None


def compose(original: Path, mask: Path, target: Path, filename: str) -> None:
    """Write the original with the mask's alpha to `target`, in the format of `filename`.

    The text chunks of a PNG original (its workflow) are kept in a PNG result. Raises
    `NotAPictureError`, also where the sizes differ; blocks.
    """
    extension = posixpath.splitext(filename)[1].lower()
    format_ = Image.registered_extensions().get(extension)
    if format_ is None:
        raise NotAPictureError(f"a mask cannot be saved as {extension or 'a file of no kind'}")
    with opened(original) as picture:
        notes = PngInfo()
        for key, text in getattr(picture, "text", {}).items():
            notes.add_text(key, text)
        composed = picture.convert("RGBA")
    with opened(mask) as picture:
        alpha = picture.convert("RGBA").getchannel("A")
    try:
        composed.putalpha(alpha)
        composed.save(target, format=format_, compress_level=4, pnginfo=notes)
    except (OSError, ValueError, KeyError) as error:
        raise NotAPictureError(f"the mask cannot be put onto its picture: {error}") from error
