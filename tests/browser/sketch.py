"""The picture that is uploaded: a lighthouse, roughly."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from playwright.async_api import FilePayload

SIZE = 512


def upload() -> FilePayload:
    """The sketch as a file that a browser uploads."""
    return {"name": "sketch.png", "mimeType": "image/png", "buffer": png()}


def png() -> bytes:
    """The sketch as PNG."""
    picture = Image.new("RGB", (SIZE, SIZE), (40, 60, 110))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 340, SIZE, SIZE), fill=(25, 45, 70))
    rock = [(0, 360), (220, 330), (300, 420), (260, SIZE), (0, SIZE)]
    draw.polygon(rock, fill=(60, 50, 45))
    draw.rectangle((120, 140, 170, 350), fill=(230, 220, 205))
    draw.rectangle((125, 105, 165, 140), fill=(200, 60, 50))
    draw.ellipse((330, 80, 420, 170), fill=(250, 190, 110))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
