"""Media types by name, as a ComfyUI 0.3.64 answers them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.api.content import is_active
from proxy.translate import media_types

RECORDINGS = Path(__file__).parent.parent / "recordings"


def recorded_types() -> list[tuple[str, str]]:
    events = json.loads((RECORDINGS / "view_types.json").read_text())["events"]
    return [
        (
            parse_qs(urlsplit(event["request"]["path"]).query)["filename"][0],
            dict(event["response"]["headers"])["Content-Type"],
        )
        for event in events
        if event["kind"] == "http" and event["request"]["path"].startswith("/view?")
    ]


@pytest.mark.parametrize(("filename", "type_"), recorded_types())
def test_the_type_is_as_recorded(filename: str, type_: str) -> None:
    """0.3.64 answers some active types, not all of them, as octets."""
    ours = media_types.media_type(filename)
    assert ours == type_ or (type_ == media_types.UNKNOWN and is_active(ours))


@pytest.mark.parametrize("filename", ["A.PNG", "a.b.png", "a.png.gz"])
def test_letters_dots_and_packing_do_not_matter(filename: str) -> None:
    assert media_types.media_type(filename) == "image/png"


@pytest.mark.parametrize("filename", ["", "png", ".png", "a.", "a.gz", "a.xyz"])
def test_the_rest_is_unknown(filename: str) -> None:
    assert media_types.media_type(filename) == "application/octet-stream"


@pytest.mark.parametrize(
    ("filename", "kind"),
    [
        ("a.webp", "image"),
        ("a.fbx", "model"),
        ("a.glb", "model"),
        ("a.mp4", "video"),
        ("a.flac", "audio"),
        ("a", "application"),
    ],
)
def test_loaders_list_by_kind(filename: str, kind: str) -> None:
    assert media_types.kind(filename) == kind


@pytest.mark.parametrize(
    ("header", "essence", "charset"),
    [
        ("", "", None),
        ("application/json", "application/json", None),
        ("Application/JSON ; charset=UTF-8", "application/json", "UTF-8"),
        ('text/plain; a=b; Charset = "utf-8"', "text/plain", "utf-8"),
        ("multipart/form-data; boundary=charset", "multipart/form-data", None),
        ("text/plain;charset", "text/plain", ""),
    ],
)
def test_a_header_has_a_type_and_perhaps_a_charset(
    header: str, essence: str, charset: str | None
) -> None:
    assert media_types.essence(header) == essence
    assert media_types.charset(header) == charset
