"""What packs do with pictures, in the process for them: read them as nodes do, and make results
what their clients want. Imported by the process, so that it imports little.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from proxy.files import picture_tasks
from proxy.files.opened_pictures import NotAPictureError, opened
from proxy.files.picture_worker import TaskFiles

if TYPE_CHECKING:
    from PIL.Image import Image

#: Modes whose 8-bit values core's loader takes as they are.
_PLAIN = frozenset({"RGB", "RGBA", "L"})
_AS_THEY_ARE = frozenset({"PNG", "JPEG", "WEBP"})

_EXIF_ORIENTATION = 0x0112


def decode(files: TaskFiles, *, mask: str) -> dict[str, Any]:
    """Read a picture as a pack does, in a form that core's loaders read alike.

    `mask` is the name of a `Mask`. What is not taken as it is goes to the first target, and a mask
    as a grey PNG to the second one. Return what is there.
    """
    converted, converted_mask = files.targets
    with opened(files.sources[0]) as picture:
        width, height = picture.size
        files.begin(width * height)
        is_plain = mask == "CORE" or _is_plain(picture)
        picture.load()
        extension = f".{(picture.format or 'png').lower()}"
        grey = None if mask == "CORE" else _mask_of(picture, mask)
        if not is_plain:
            extension = ".png"
            _save(_rgb(picture), "PNG", converted)
        if grey is not None:
            _save(grey, "PNG", converted_mask)
    return {
        "is_converted": not is_plain,
        "has_mask": grey is not None,
        "extension": extension,
        "width": width,
        "height": height,
    }


def _is_plain(picture: Image) -> bool:
    """Return whether core's loader reads the file as the pack does."""
    return (
        picture.format in _AS_THEY_ARE
        and picture.mode in _PLAIN
        and getattr(picture, "n_frames", 1) == 1
        and picture.getexif().get(_EXIF_ORIENTATION, 1) == 1
        and "transparency" not in picture.info
    )


def _mask_of(picture: Image, mask: str) -> Image | None:
    if mask == "RED":
        return None
    if "A" in picture.getbands():
        return picture.getchannel("A")
    if mask == "ALPHA_OR_RED":
        return picture if picture.mode == "L" else _rgb(picture).getchannel("R")
    return None


def _rgb(picture: Image) -> Image:
    """Return the colours in 8 bits, without alpha; those below alpha 0 are kept."""
    if isinstance(picture.info.get("transparency"), bytes):
        del picture.info["transparency"]  # with it Pillow wants RGBA, a second copy of all pixels
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda level: level / 256).convert("L")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def encode(files: TaskFiles, *, format: str) -> None:  # noqa: A002
    """Write a picture of the cloud in a format of Pillow's, without texts."""
    source, target = files.sources[0], files.targets[0]
    if format == "PNG":
        if (bare := without_texts(source.read())) is not None:
            target.write(bare)
            return
        source.seek(0)
    with opened(source) as picture:
        files.begin(picture.width * picture.height)
        picture.load()
        try:
            _save(picture, format, target)
        except KeyError as error:
            raise NotAPictureError(str(error), "KeyError", str(error)) from error


#: Pixels of a preview that is re-encoded on the way; a larger one is left out.
_PREVIEW_PIXELS = 1 << 22


def jpeg(files: TaskFiles) -> None:
    """Write a preview, a PNG, as JPEG. Raises `NotAPictureError` also for one that is too large."""
    with opened(files.sources[0]) as picture:
        if picture.format != "PNG" or picture.width * picture.height > _PREVIEW_PIXELS:
            raise NotAPictureError("it is no preview")
        files.begin(picture.width * picture.height)
        _save(picture.convert("RGB"), "JPEG", files.targets[0])


def _save(picture: Image, format_: str, target: IO[bytes]) -> None:
    """Write a picture in a format of Pillow's, JPEG with quality 95, without what it carries."""
    picture.info = {}
    picture_tasks.save(picture, target, format_, quality=95, compress_level=1)


_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})


def without_texts(png: bytes) -> bytes | None:
    """Return a PNG without its texts, which hold the graph that ran; `None` for another file."""
    if not png.startswith(_PNG):
        return None
    pieces, at = [_PNG], len(_PNG)
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in _TEXTS:
            pieces.append(png[at:end])
        at = end
    return b"".join(pieces)
