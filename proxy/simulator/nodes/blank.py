"""Pictures of a single color, which are not computed: many workflows of tests have no other."""

from __future__ import annotations

from typing import TypeAlias
from weakref import WeakValueDictionary

from PIL import Image

Color: TypeAlias = float | tuple[float, ...]

_known: WeakValueDictionary[tuple[str, tuple[int, int], Color], Image.Image] = WeakValueDictionary()


def blank(mode: str, size: tuple[int, int], color: Color) -> Image.Image:
    """Return a picture of a single color: the same one as long as it is in use."""
    picture = _known.get((mode, size, color))
    if picture is None:
        picture = Image.new(mode, size, color)
        _known[mode, size, color] = picture
    return picture


def single_color(picture: Image.Image) -> Color | None:
    """Return the color of a picture that has only one, otherwise `None`.

    Only the pixels of a picture that `blank` has not made are looked at.
    """
    color = picture.getpixel((0, 0))
    if color is None:
        return None
    if _known.get((picture.mode, picture.size, color)) is picture:
        return color
    return color if picture.getcolors(1) is not None else None
