"""The simulator's painter: a landscape of hazy hills, made from a text and a seed alone."""

from __future__ import annotations

import colorsys
import hashlib
import math
import random
import re
from functools import cache
from typing import TypeAlias

from PIL import Image, ImageChops, ImageColor, ImageDraw

#: What a picture says of itself.
CAPTION = "Simulated: a landscape, whatever the prompt is"
#: Pixels around it.
_MARGIN = 8

Colour: TypeAlias = tuple[int, int, int]


def paint(subject: str, seed: int | str, size: tuple[int, int]) -> Image.Image:
    """Return the picture for a subject and a seed: the same arguments give the same pixels.

    A CSS colour's name in the subject ("purple") tints the sky. A picture with room for it says
    that it is simulated.
    """
    text = f"{seed}\n{subject}".encode(errors="replace")
    chance = random.Random(text)  # noqa: S311 - a painter, not a locksmith
    width, height = size
    zenith, horizon, ground = _palette(subject, chance)
    picture = _gradient(zenith, horizon).resize(size, Image.Resampling.BILINEAR)
    _clouds(picture, chance, horizon)
    _sun(picture, chance)
    pen = ImageDraw.Draw(picture)
    layers = chance.randint(4, 6)
    for layer in range(layers):
        near = (layer + 1) / layers
        base = height * (0.5 + 0.45 * near)
        outline = _ridge(chance, width, base, height * 0.16 * (1.2 - near / 2))
        pen.polygon([(0, height), *outline, (width, height)], fill=mix(horizon, ground, near))
    if pen.textlength(CAPTION) < width - 2 * _MARGIN:
        pen.text((_MARGIN, height - 2 * _MARGIN), CAPTION, fill=(255, 255, 255))
    return picture


def noise(seed: int | str, size: tuple[int, int]) -> Image.Image:
    """Return coloured noise in soft grains, as a latent without any structure looks when
    decoded."""
    chance = random.Random(seed)  # noqa: S311
    grains = (max(2, min(96, size[0] // 8)), max(2, min(96, size[1] // 8)))
    raw = chance.randbytes(grains[0] * grains[1] * 3)
    return Image.frombytes("RGB", grains, raw).resize(size, Image.Resampling.BICUBIC)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return a colour between two; `share` is the second one's."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@cache
def _colours() -> dict[str, Colour]:
    return {name: ImageColor.getrgb(name)[:3] for name in ImageColor.colormap}


def _palette(subject: str, chance: random.Random) -> tuple[Colour, Colour, Colour]:
    digest = hashlib.blake2b(subject.encode(errors="replace"), digest_size=2).digest()
    hue = int.from_bytes(digest) / 65536
    zenith = _hsv(hue, 0.55, 0.55)
    horizon = _hsv(hue + 0.45 + chance.uniform(-0.06, 0.06), 0.38, 1.0)
    ground = _hsv(hue + chance.uniform(-0.08, 0.08), 0.6, 0.16)
    for word in re.findall(r"[a-z]+", subject.lower()):
        if word in _colours():
            zenith, horizon = _colours()[word], mix(_colours()[word], (255, 244, 220), 0.6)
            break
    return zenith, horizon, ground


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (
        round(part * 255) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value)
    )
    return red, green, blue


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    column = Image.new("RGB", (1, 64))
    column.putdata([mix(top, bottom, min(1.0, row / 40)) for row in range(64)])
    return column


def _clouds(picture: Image.Image, chance: random.Random, colour: Colour) -> None:
    veil = Image.new("L", picture.size, 128)
    for grains, weight in ((3, 0.5), (7, 0.4), (13, 0.3)):
        raw = Image.frombytes("L", (grains, 2 * grains), chance.randbytes(2 * grains * grains))
        veil = Image.blend(veil, raw.resize(picture.size, Image.Resampling.BICUBIC), weight)
    mask = veil.point([max(0, min(130, (level - 118) * 2)) for level in range(256)])
    picture.paste(mix(colour, (255, 255, 255), 0.6), mask=mask)


def _sun(picture: Image.Image, chance: random.Random) -> None:
    width, height = picture.size
    across = max(2, round(min(width, height) * chance.uniform(0.5, 0.9)))
    left = round(width * chance.uniform(0.15, 0.85) - across / 2)
    top = round(height * chance.uniform(0.15, 0.5) - across / 2)
    glow = ImageChops.invert(Image.radial_gradient("L")).resize((across, across))
    glow = glow.point([round(255 * (level / 255) ** 2.5) for level in range(256)])
    disc = ImageDraw.Draw(glow)
    edge = across * 0.41
    disc.ellipse((edge, edge, across - edge, across - edge), fill=255)
    picture.paste((255, 250, 232), (left, top), glow)


def _ridge(
    chance: random.Random, width: int, base: float, rise: float
) -> list[tuple[float, float]]:
    waves = [
        (chance.uniform(0.6, 1.6) * 2**octave, chance.uniform(0, math.tau), 0.5**octave)
        for octave in range(5)
    ]
    points = max(8, min(96, width // 4))
    return [
        (
            width * point / points,
            base
            - rise
            * sum(
                share * math.sin(turns * math.tau * point / points + phase)
                for turns, phase, share in waves
            ),
        )
        for point in range(points + 1)
    ]
