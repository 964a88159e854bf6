"""The headers of what a member or the cloud chose the bytes of."""

from __future__ import annotations

import pytest

from proxy.api.content import SAFETY_HEADERS, content_headers, filename_parameter, is_active
from proxy.translate.media_types import media_type

#: What the browsers' standards say of them: Content Security Policy 3, and Fetch 3.6.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


@pytest.mark.parametrize("name", ["p.html", "p.xhtml", "s.js", "m.mjs", "s.css", "d.xml", "v.svg"])
def test_what_a_browser_would_run_is_an_attachment(name: str) -> None:
    assert content_headers(media_type(name), name=filename_parameter(name)) == {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Type": "application/octet-stream",
        "Vary": "Sec-Fetch-Dest",
        "Cache-Control": "no-store",
        **SAFE,
    }


@pytest.mark.parametrize(
    "type_",
    [
        "text/html",
        "Text/HTML ; charset=utf-8",
        "image/png,text/html",
        "multipart/x-mixed-replace",
        "image/png\r\nX-Other: 1",
        "image/svg+xml",
        "application/x-unheard-of",
        "",
    ],
)
def test_a_type_that_is_not_on_the_list_is_downloaded(type_: str) -> None:
    headers = content_headers(type_, disposition="inline")
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == "attachment"
    assert SAFE.items() <= headers.items()


@pytest.mark.parametrize(
    "type_", ["image/png", "image/webp", "text/plain", "application/json", "model/gltf-binary"]
)
def test_pictures_texts_and_models_keep_their_type(type_: str) -> None:
    assert content_headers(type_) == {"Content-Type": type_, **SAFE}


@pytest.mark.parametrize("type_", ["video/mp4", "audio/wav"])
def test_sounds_and_videos_can_be_played_without_scripts(type_: str) -> None:
    policy = "sandbox allow-same-origin; default-src 'none'; media-src 'self'"
    assert content_headers(type_) == {
        **SAFE,
        "Content-Type": type_,
        "Content-Security-Policy": policy,
    }


def test_parameters_of_a_type_are_left_out() -> None:
    assert content_headers("Image/PNG; a=b")["Content-Type"] == "image/png"


def test_an_svg_in_an_img_is_a_picture() -> None:
    headers = content_headers("image/svg+xml", "image", name=filename_parameter("v.svg"))
    assert headers["Content-Type"] == "image/svg+xml"
    assert headers["Content-Disposition"] == 'filename="v.svg"'
    assert headers["Cache-Control"] == "no-store"
    assert headers.items() >= SAFETY_HEADERS.items()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('quote"d.png', 'filename="quote\\"d.png"'),
        ("hé 世.png", 'filename="hé 世.png"'),
        ("a\r\nX: y.png", 'filename="a__X: y.png"'),
        ("\udcff.png", 'filename="?.png"'),
    ],
)
def test_a_name_cannot_break_out_of_its_header(name: str, shown: str) -> None:
    assert (
        content_headers("image/png", name=filename_parameter(name))["Content-Disposition"] == shown
    )


@pytest.mark.parametrize(
    "type_",
    [
        "text/html",
        "Text/HTML; charset=utf-8",
        "image/svg+xml",
        "application/xml",
        "application/javascript; charset=utf-8",
        "application/xslt+xml",
    ],
)
def test_active_types(type_: str) -> None:
    assert is_active(type_)


@pytest.mark.parametrize("type_", ["image/png", "application/json", "application/pdf", ""])
def test_passive_types(type_: str) -> None:
    assert not is_active(type_)
