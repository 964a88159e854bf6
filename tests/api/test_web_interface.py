"""The web interface's files, from packages like those of ComfyUI, and the page in their place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from aiohttp.test_utils import TestClient

from proxy.api import web_interface
from proxy.api.extension import SCRIPT_PATH
from proxy.api.web_interface import WebInterface, within

Client = TestClient[Any, Any]

SECRET = "not for the web"
NO_STORE = {"Cache-Control": "no-store, must-revalidate", "Pragma": "no-cache", "Expires": "0"}


@pytest.fixture
def interface(tmp_path: Path) -> WebInterface:
    """A small interface on disk, beside a file that does not belong to it."""
    files = {
        "secret.js": SECRET,
        "static/index.html": "<p>the frontend</p>",
        "static/assets/index-1.js": "export {}",
        "static/assets/logo.png": "png",
        "static/scripts/app.mjs": "export {}",
        "static/style.css": "p {}",
        "static/extensions/core/b.js": "",
        "static/extensions/core/deep/a.js": "",
        "static/extensions/core/b.js.map": "",
        "docs/KSampler/en.md": "# KSampler",
        "elsewhere/index.json": "[]",
        "elsewhere/one-1.webp": "webp",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return WebInterface(
        frontend=tmp_path / "static",
        docs=tmp_path / "docs",
        templates={path.name: path for path in (tmp_path / "elsewhere").iterdir()},
        pictures=frozenset({"one-2.webp", "two-1.webp", "two-1.mp3"}),
        frontend_version="1.58.1",
        templates_version="0.11.97",
    )


@pytest.fixture
async def browser(serve: Any, interface: WebInterface) -> Client:
    """A client of a proxy that has the interface."""
    client: Client = await serve(interface=interface)
    return client


@pytest.mark.parametrize(
    ("path", "type_", "cache", "text"),
    [
        ("/index.html", "text/html", None, "<p>the frontend</p>"),
        ("/assets/index-1.js", "application/javascript", "no-store", "export {}"),
        ("/scripts/app.mjs", "application/javascript", "no-store", "export {}"),
        ("/style.css", "text/css", "no-store", "p {}"),
        ("/assets/logo.png", "image/png", "public, max-age=86400", "png"),
        ("/extensions/core/b.js", "application/javascript", "no-store", ""),
        ("/templates/index.json", "application/json", "no-store", "[]"),
        ("/templates/one-1.webp", "image/webp", "public, max-age=86400", "webp"),
        ("/docs/KSampler/en.md", None, None, "# KSampler"),
    ],
)
async def test_a_file_with_its_type_and_how_long_it_may_be_kept(
    browser: Client, path: str, type_: str | None, cache: str | None, text: str
) -> None:
    response = await browser.get(path)
    assert (response.status, await response.text()) == (200, text)
    assert response.headers.get("Cache-Control") == cache
    assert type_ in (None, response.headers["Content-Type"])
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/?x=1", "/api/"])
async def test_the_frontends_page_is_never_kept(browser: Client, path: str) -> None:
    response = await browser.get(path)
    assert (response.status, await response.text()) == (200, "<p>the frontend</p>")
    assert response.headers["Content-Type"] == "text/html"
    assert {name: response.headers[name] for name in NO_STORE} == NO_STORE


async def test_head_ranges_and_etags_are_heeded(browser: Client) -> None:
    whole = await browser.head("/")
    assert (whole.status, whole.headers["Content-Length"]) == (200, "19")
    part = await browser.get("/assets/index-1.js", headers={"Range": "bytes=0-5"})
    assert (part.status, await part.text()) == (206, "export")
    known = await browser.get("/", headers={"If-None-Match": whole.headers["ETag"]})
    assert (known.status, await known.read()) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.js",
        "/%2e%2e/secret.js",
        "/..%2fsecret.js",
        "/assets/..%2f..%2fsecret.js",
        "/docs/..%2fsecret.js",
        "/docs/..%2fstatic/index.html",
        "/templates/..%2fsecret.js",
        "/..%5csecret.js",
        "/%2fetc/passwd",
        "/docs/%2fetc/passwd",
        "/a%00b.js",
        "/" + 300 * "a",
        "/%ff%fe",
        "/nothing.js",
        "/templates/nothing.json",
        "/docs/Nothing/en.md",
        "/api/assets.js",
        "/api/docs/KSampler/en.md",
        "/api/extensions/core/b.js",
        "/workflow_templates/pack/demo.json",
    ],
)
async def test_what_is_not_there_is_404_and_nothing_outside_is_there(
    browser: Client, path: str
) -> None:
    response = await browser.session.get(f"{browser.make_url('/')}{path[1:]}")
    assert (response.status, await response.read()) == (404, b"")


@pytest.mark.parametrize("path", ["/assets", "/extensions/core/", "/docs/KSampler", "/docs/"])
async def test_a_folder_is_not_listed(browser: Client, path: str) -> None:
    response = await browser.get(path)
    assert (response.status, await response.text()) == (403, "403: Forbidden")


async def test_a_missing_picture_is_not_kept_for_a_day(browser: Client) -> None:
    response = await browser.get("/assets/nothing.png")
    assert (response.status, response.headers["Cache-Control"]) == (404, "public, max-age=3600")


async def test_the_extensions_are_those_of_the_frontend(browser: Client) -> None:
    for path in ("/extensions", "/api/extensions"):
        response = await browser.get(path)
        assert await response.json() == [
            "/extensions/core/b.js",
            "/extensions/core/deep/a.js",
            SCRIPT_PATH,
        ]


async def test_the_stats_name_the_versions_that_are_served(browser: Client) -> None:
    system = (await (await browser.get("/system_stats")).json())["system"]
    assert system["required_frontend_version"] == "1.58.1"
    assert system["installed_templates_version"] == system["required_templates_version"]
    assert system["installed_templates_version"] == "0.11.97"


async def test_other_methods_are_not_allowed(browser: Client) -> None:
    response = await browser.post("/assets/index-1.js")
    assert (response.status, await response.text()) == (405, "405: Method Not Allowed")
    assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}


async def test_below_internal_there_is_nothing_of_it(browser: Client) -> None:
    for method in ("GET", "POST"):
        response = await browser.request(method, "/internal/nothing")
        assert (response.status, await response.text()) == (404, "404: Not Found")


async def test_without_the_packages_there_is_a_page_that_needs_nobody_else(client: Client) -> None:
    response = await client.get("/")
    page = await response.text()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html"
    assert {name: response.headers[name] for name in NO_STORE} == NO_STORE
    assert "Comfy Cloud" in page
    assert 'href="readyz"' in page
    assert not any(word in page for word in ("src=", "@import", "url("))
    assert page.count("<link") == 1
    for path in ("/index.html", "/templates/index.json", "/docs/KSampler/en.md", "/x.js"):
        assert (await client.get(path)).status == 404
    assert await (await client.get("/extensions")).json() == []


async def test_a_picture_that_is_not_installed_is_the_clouds_or_a_tile(browser: Client) -> None:
    found = await browser.get("/templates/one-2.webp")
    assert (found.content_type, await found.read()) == ("image/webp", b"one-2.webp")
    tile = await browser.get("/templates/two-1.webp")
    assert (tile.status, tile.content_type) == (200, "image/svg+xml")
    assert tile.headers["Cache-Control"] == "no-cache"
    assert ElementTree.fromstring(await tile.text()).tag.endswith("svg")
    assert (await browser.get("/templates/two-1.mp3")).status == 404
    assert (await browser.get("/templates/three-1.webp")).status == 404


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FRONTEND", "_DOCS", "_TEMPLATES"):
        monkeypatch.setattr(web_interface, name, "comfyui_no_such_package")
    found = web_interface.installed()
    assert (found.frontend, found.docs, found.templates) == (None, None, {})
    assert not found.pictures
    assert found.frontend_version is None


def test_what_is_installed_is_found() -> None:
    pytest.importorskip("comfyui_frontend_package", reason="needs the extra `ui`")
    found = web_interface.installed()
    page = within(found.frontend, "index.html")
    assert page is not None
    assert found.frontend_version
    assert "/extensions/core/widgetInputs.js" in found.extensions()
    assert within(found.docs, "KSampler/en.md") is not None
    assert found.templates["index.json"].is_file()


async def test_the_page_lists_the_flags_that_are_announced(client: Client) -> None:
    announced = await (await client.get("/features")).json()
    announced |= {f"extension.manager.{name}": 1 for name in announced.pop("extension")["manager"]}
    page = Path(__file__).parents[2] / "docs" / "how-it-works.md"
    section = page.read_text("utf-8").partition("## Feature flags")[2].partition("Left out")[0]
    assert set(re.findall(r"(?m)^\* `([^`]+)`", section)) == announced.keys()
