"""Pictures of packs, in the process for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from proxy.files.pictures import PictureWorkers
from proxy.packs.nodes import Mask, PackNodeError
from proxy.packs.pictures import decode, encode


@pytest.fixture
async def files() -> AsyncIterator[Any]:
    workers = PictureWorkers()
    yield SimpleNamespace(picture_workers=workers)
    await workers.close()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The largest that has a header; decoded it takes 268 MB."""
    path = tmp_path / "picture.png"
    Image.new("RGBA", (8192, 8192)).save(path, compress_level=1)
    return path


@pytest.mark.parametrize("mask", list(Mask))
async def test_the_masks_of_a_picture(files: Any, tmp_path: Path, mask: Mask) -> None:
    path, converted, grey = (tmp_path / name for name in ("picture.png", "converted", "grey"))
    Image.new("RGBA", (8, 6), (1, 2, 3, 4)).save(path)
    found = await decode(files, "ann", path, mask, converted, grey)
    has_mask = mask in (Mask.ALPHA_OR_RED, Mask.ALPHA_OR_NONE, Mask.ALPHA_OR_ONES)
    assert (found.path, found.extension, found.mask) == (path, ".png", grey if has_mask else None)
    assert (found.width, found.height) == (8, 6)
    if has_mask:
        with Image.open(grey) as picture:
            assert (picture.mode, picture.getpixel((0, 0))) == ("L", 4)


async def test_a_picture_that_takes_too_much_is_not_encoded(files: Any, large: Path) -> None:
    with pytest.raises(PackNodeError, match="it has more than 67108863 pixels") as refused:
        await encode(files, "ann", large, "WEBP", large.with_name("target"))
    assert refused.value.exception_type == "PIL.Image.DecompressionBombError"


async def test_what_is_no_picture_fails_in_words_of_pillow(files: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something else")
    with pytest.raises(PackNodeError, match="cannot identify image file") as refused:
        await decode(files, "ann", tmp_path / "a", Mask.CORE, tmp_path / "b", tmp_path / "c")
    assert refused.value.exception_type == "PIL.UnidentifiedImageError"


async def test_an_unknown_format_fails_in_words_of_pillow(files: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a", "PNG")
    with pytest.raises(PackNodeError, match="NONE") as refused:
        await encode(files, "ann", tmp_path / "a", "NONE", tmp_path / "b")
    assert refused.value.exception_type == "KeyError"
