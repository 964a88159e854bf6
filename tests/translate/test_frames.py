"""Binary frames in both directions, with the wire written out."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate import frames
from proxy.translate.events import NodeText, Preview
from proxy.translate.frames import CloudPicture, CloudText

JPEG = b"\xff\xd8\xff\xe0jpeg"
PNG = b"\x89PNG\r\n\x1a\npng"
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "


def preview(image: bytes = JPEG, image_type: str = "image/jpeg") -> Preview:
    return Preview("id", "1.0.0.2", "1", None, "2", image, image_type)


def metadata_frame(json: bytes, image: bytes = JPEG) -> bytes:
    return b"\x00\x00\x00\x04" + len(json).to_bytes(4, "big") + json + image


def test_type_1_names_no_job() -> None:
    frame = frames.parse_frame(b"\x00\x00\x00\x01\x00\x00\x00\x01" + JPEG)
    assert frame == CloudPicture(JPEG, "image/jpeg")
    assert not frame.leads


def test_type_1_is_what_its_bytes_say_not_its_number() -> None:
    frame = frames.parse_frame(b"\x00\x00\x00\x01\x00\x00\x00\x01" + PNG)
    assert frame == CloudPicture(PNG, "image/png")


def test_type_4_carries_all_ids() -> None:
    json = (
        b'{"node_id": "1.0.0.2", "prompt_id": "p", "display_node_id": "1",'
        b' "parent_node_id": "1", "real_node_id": "2", "image_type": "image/jpeg"}'
    )
    frame = frames.parse_frame(metadata_frame(json))
    assert frame == CloudPicture(JPEG, "image/jpeg", "p", "1.0.0.2", "1", "1", "2")
    assert frame.leads


def test_type_4_without_image_type_is_recognised_by_its_bytes() -> None:
    frame = frames.parse_frame(metadata_frame(b'{"node_id": 7, "prompt_id": "p"}', WEBP))
    assert frame == CloudPicture(WEBP, "image/webp", "p", "7", "7", None, "7")


def test_type_3_in_the_short_form() -> None:
    data = b"\x00\x00\x00\x03\x00\x00\x00\x02" + b"12" + "grüße".encode()
    assert frames.parse_frame(data) == CloudText("12", "grüße")


def test_type_3_in_the_long_form_names_the_job() -> None:
    job = b"7121851e-1054-57bd-bdfe-1bb2f96c0cf7"
    data = b"\x00\x00\x00\x03\x00\x00\x00\x24" + job + b"\x00\x00\x00\x0212text"
    assert frames.parse_frame(data) == CloudText("12", "text", job.decode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00\x01",
        b"\x00\x00\x00\x03\x00\x00\x00\x09x",
        b"\x00\x00\x00\x03\x00\x00\x00\x01\xffx",
        b"\x00\x00\x00\x04\x00\x00\x00\x02[]" + JPEG,
        b"\x00\x00\x00\x04\x00\x00\x00\x02{]" + JPEG,
        b"\x00\x00\x00\x04\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x4dpack",
    ],
)
def test_broken_and_unknown_frames_are_nothing(data: bytes) -> None:
    assert frames.parse_frame(data) is None


@given(st.binary(max_size=64))
def test_no_bytes_make_parsing_fail(data: bytes) -> None:
    frames.parse_frame(data)


KEY = "comfyui-0123"
#: Texts and bytes with the key, with a part of it, and without.
TEXTS = st.lists(st.sampled_from([KEY, KEY[:5], '"', "\\\\", "ü", "x"]), max_size=4).map("".join)
IMAGES = TEXTS.map(lambda text: JPEG + text.encode())


def text_frame(*parts: str) -> bytes:
    counted = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts[:-1])
    return b"\x00\x00\x00\x03" + counted + parts[-1].encode()


FRAMES = st.one_of(
    st.builds(text_frame, TEXTS, TEXTS),
    st.builds(text_frame, st.just("7121851e-1054-57bd-bdfe-1bb2f96c0cf7"), TEXTS, TEXTS),
    IMAGES.map(lambda image: b"\x00\x00\x00\x01\x00\x00\x00\x01" + image),
    st.builds(
        lambda names, values, ascii_, image: metadata_frame(
            json.dumps(dict(zip(names, values, strict=False)), ensure_ascii=ascii_).encode(), image
        ),
        st.lists(st.sampled_from(["node_id", "prompt_id", KEY]), min_size=1),
        st.lists(TEXTS, min_size=1),
        st.booleans(),
        IMAGES,
    ),
    st.builds(
        lambda frame, image: frame.replace(KEY.encode(), escaped(KEY)) + image,
        TEXTS.map(lambda text: metadata_frame(json.dumps({"node_id": text}).encode(), b"")),
        IMAGES,
    ),
)


def escaped(text: str) -> bytes:
    return "".join(f"\\u{ord(char):04x}" for char in text).encode()


def shows(frame: bytes, secret: str) -> bool:
    """Whether any part of a frame has the secret."""
    found = frames.parse_frame(frame)
    parts = () if found is None else msgspec.structs.astuple(found)
    return any(secret.encode() in (p if isinstance(p, bytes) else str(p).encode()) for p in parts)


@given(FRAMES, st.integers(0, 3))
def test_no_frame_shows_the_key(whole: bytes, cut: int) -> None:
    frame = whole[: len(whole) - cut]
    shown = frames.without_secret(frame, KEY)
    assert shown is None or not shows(shown, KEY)
    if frames.parse_frame(frame) is not None and KEY.encode() not in frame and b"\\u" not in frame:
        assert shown == frame


def test_a_plain_socket_gets_type_1_with_the_format() -> None:
    assert frames.encode_preview(preview(), metadata=False) == (
        b"\x00\x00\x00\x01\x00\x00\x00\x01" + JPEG
    )
    assert frames.encode_preview(preview(PNG, "image/png"), metadata=False) == (
        b"\x00\x00\x00\x01\x00\x00\x00\x02" + PNG
    )


def test_a_format_without_a_number_has_no_type_1() -> None:
    assert frames.encode_preview(preview(WEBP, "image/webp"), metadata=False) is None


def test_a_socket_with_metadata_gets_type_4_as_comfyui_writes_it() -> None:
    about = (
        b'{"node_id": "1.0.0.2", "prompt_id": "id", "display_node_id": "1", '
        b'"parent_node_id": null, "real_node_id": "2", "image_type": "image/jpeg"}'
    )
    assert frames.encode_preview(preview(), metadata=True) == metadata_frame(about)


def test_text_goes_out_in_the_short_form() -> None:
    assert frames.encode_text(NodeText("12", "hi")) == b"\x00\x00\x00\x03\x00\x00\x00\x0212hi"
