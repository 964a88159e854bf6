"""`res=N` and `channel=a` of `/view`, as ComfyUI 0.46 has them, and masks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from files import tasks
from files.helpers import header, png
from hypothesis import given
from hypothesis.strategies import integers
from PIL import Image, ImageChops

from proxy.files.conversions import Conversion, conversion, small
from proxy.files.opened_pictures import NotAPictureError
from proxy.files.picture_tasks import compose, fitted_size


def converted(picture: Image.Image, wanted: Conversion | None, tmp_path: Path, **saved: Any) -> Any:
    path = tmp_path / "picture"
    picture.save(path, **{"format": "PNG", **saved})
    assert wanted is not None
    return Image.open(io.BytesIO(tasks.converted(path, wanted)))


def about(found: Any, expected: tuple[int, ...]) -> bool:
    return all(abs(level - other) <= 6 for level, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("res", ["abc", "0", "-1", "", "+5", "1.5", "٣", "9" * 5000, None])
def test_what_is_no_positive_number_is_ignored(res: str | None) -> None:
    assert small(res, "a.png") is None


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.mp4", "png", "a.png.txt"])
def test_other_files_are_never_made_small(name: str) -> None:
    assert small("64", name) is None


@pytest.mark.parametrize("name", ["a.PNG", "a.Jpg", "a.jpeg"])
def test_the_extension_is_in_any_case(name: str) -> None:
    assert small("64", name) is not None


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 200), (100, 50)), ((90, 300), (30, 100)), ((40, 20), (40, 20))]
)
def test_it_fits_and_is_never_enlarged(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    made = converted(Image.new("RGB", size, (9, 200, 40)), small("100", "a.png"), tmp_path)
    assert (made.format, made.size, made.mode) == ("JPEG", expected, "RGB")
    assert about(made.getpixel((3, 3)), (9, 200, 40))


def test_the_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 200), (255, 0, 0))
    picture.paste((0, 0, 255), (200, 0, 400, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    wanted = small("100", "a.jpg")
    made = converted(picture, wanted, tmp_path, format="JPEG", exif=exif)
    assert made.size == (50, 100)
    assert about(made.getpixel((25, 10)), (254, 0, 0))
    assert about(made.getpixel((25, 90)), (0, 0, 254))
    assert 0x0112 not in made.getexif()


def test_what_is_transparent_lies_on_black(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (200, 200), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (100, 0, 200, 200))
    made = converted(picture, small("50", "a.png"), tmp_path)
    assert about(made.getpixel((10, 25)), (0, 0, 0))
    assert about(made.getpixel((40, 25)), (255, 255, 255))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_is_black_and_not_mixed_in(tmp_path: Path, mode: str) -> None:
    key: Any = 255 if mode == "L" else (255, 255, 255)
    dark: Any = 60 if mode == "L" else (60, 60, 60)
    picture = Image.new(mode, (64, 64), key)
    picture.paste(dark, (32, 0, 64, 64))
    made = converted(picture, small("32", "a.png"), tmp_path, transparency=key)
    assert about(made.getpixel((4, 16)), (0, 0, 0))
    assert about(made.getpixel((28, 16)), (60, 60, 60))
    assert max(made.getpixel((x, 16))[0] for x in range(32)) < 75


def test_grey_of_16_bits_is_scaled(tmp_path: Path) -> None:
    picture = Image.new("I;16", (80, 80), 0x8000)
    made = converted(picture, small("40", "a.png"), tmp_path)
    assert about(made.getpixel((20, 20)), (128, 128, 128))


def test_a_bilevel_picture_is_scaled_with_a_filter(tmp_path: Path) -> None:
    picture = Image.new("1", (64, 64))
    for x in range(0, 64, 2):
        picture.paste(1, (x, 0, x + 1, 64))
    made = converted(picture, small("16", "a.png"), tmp_path)
    assert 90 < made.getpixel((8, 8))[0] < 165


def gradient(mode: str, size: tuple[int, int]) -> Any:
    level = Image.linear_gradient("L").resize(size)
    return Image.merge(mode, [level.rotate(90 * turn) for turn in range(len(mode))])


@given(integers(1, 3000), integers(1, 3000), integers(1, 600))
def test_a_thumbnail_has_the_size_of_pillows(width: int, height: int, side: int) -> None:
    picture = Image.new("1", (width, height))
    picture.thumbnail((side, side))
    assert fitted_size(width, height, side) == picture.size


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(640, 400), (97, 331), (60, 60)])
def test_a_thumbnail_is_made_in_strips_as_pillow_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, size: tuple[int, int]
) -> None:
    picture, wanted = gradient(mode, size), Conversion("png", "", side=50)
    whole = converted(picture, wanted, tmp_path)
    monkeypatch.setattr("proxy.files.picture_tasks._STRIP_PIXELS", 1000)
    made = converted(picture, wanted, tmp_path)
    assert made.tobytes() == whole.tobytes()
    picture.thumbnail((50, 50))
    expected = picture.convert("RGBA" if mode.endswith("A") else "RGB")
    assert (made.size, made.mode) == (expected.size, expected.mode)
    difference = ImageChops.difference(made, expected)
    assert max(high for _, high in difference.getextrema()) <= 3


def alphas(made: Any) -> list[int]:
    assert (made.format, made.mode) == ("PNG", "RGBA")
    assert made.getpixel((0, 0))[:3] == (0, 0, 0)
    return [made.getpixel((x, 0))[3] for x in range(2)]


def test_the_alpha_of_grey_with_alpha(tmp_path: Path) -> None:
    picture = Image.new("LA", (2, 1), (200, 77))
    assert alphas(converted(picture, conversion(None, "a"), tmp_path)) == [77, 77]
    webp = converted(picture, conversion("webp;90", None), tmp_path)
    assert webp.getpixel((0, 0))[3] == 77


@pytest.mark.parametrize(
    ("transparency", "expected"), [(b"\x10\x80", [16, 128]), (0, [0, 255]), (1, [255, 0])]
)
def test_the_alpha_of_a_palette(
    tmp_path: Path, transparency: bytes | int, expected: list[int]
) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([1, 2, 3, 4, 5, 6])
    picture.putpixel((1, 0), 1)
    wanted = conversion(None, "a")
    assert alphas(converted(picture, wanted, tmp_path, transparency=transparency)) == expected


@pytest.mark.parametrize(
    ("mode", "key", "other"),
    [("L", 7, 8), ("RGB", (1, 2, 3), (1, 2, 4)), ("I;16", 0x1234, 0x1235)],
)
def test_the_alpha_of_a_transparent_colour(tmp_path: Path, mode: str, key: Any, other: Any) -> None:
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), other)
    wanted = conversion(None, "a")
    assert alphas(converted(picture, wanted, tmp_path, transparency=key)) == [0, 255]


def test_without_any_alpha_it_is_opaque(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    assert alphas(converted(picture, conversion(None, "a"), tmp_path)) == [255, 255]


def test_a_mask_of_another_size_is_refused_by_the_headers(tmp_path: Path) -> None:
    original, mask, target = (tmp_path / name for name in ("original", "mask", "target"))
    original.write_bytes(png((8, 6)))
    mask.write_bytes(header(8192, 8192))
    with pytest.raises(NotAPictureError, match="8192 x 8192 pixels but its picture 8 x 6"):
        tasks.done(compose, [original, mask], [target], filename="a.png", names={})
    assert target.stat().st_size == 0
