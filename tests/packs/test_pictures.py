"""Pictures of packs that would take too much memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from proxy.packs.nodes import Mask, PackNodeError
from proxy.packs.pictures import decode, encode


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "picture.png"
    Image.effect_noise((64, 64), 100).convert("RGBA").save(path)
    monkeypatch.setattr("proxy.files.pictures.MAX_MEMORY", 4 * 64 * 64)
    return path


@pytest.mark.parametrize("mask", list(Mask))
def test_a_picture_that_would_take_too_much_is_not_decoded(picture: Path, mask: Mask) -> None:
    converted, grey = picture.with_name("converted"), picture.with_name("grey")
    with pytest.raises(PackNodeError, match="it has more than 3276 pixels"):
        decode(picture, mask, converted, grey)


def test_a_picture_that_would_take_too_much_is_not_encoded(picture: Path) -> None:
    with pytest.raises(PackNodeError, match="it has more than"):
        encode(picture, "WEBP", picture.with_name("target"))


def test_a_file_that_is_too_large_is_not_read(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.packs.pictures.MAX_MEMORY", 2 * picture.stat().st_size - 2)
    with pytest.raises(PackNodeError, match="the picture has more than"):
        encode(picture, "PNG", picture.with_name("target"))
