"""What members and the cloud chose the bytes of, in a real browser: shown, and never run."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from browser.frontend import opened_page
from files.helpers import png
from team import Team, bearer, running_team
from yarl import URL

from proxy.simulator import Simulator

Error = pytest.importorskip("playwright.async_api").Error

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

#: Tells the page that it ran, and asks for what only an admin sees.
TRICK = (
    "<!doctype html><script>document.title='ran';fetch('/proxy/api/members').then(a=>a.text())"
    ".then(t=>document.title='stole '+t)</script>"
)
SVG = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>{TRICK[15:]}</svg>"


def sound() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as written:
        written.setparams((1, 2, 8000, 800, "NONE", ""))
        written.writeframes(bytes(1600))
    return target.getvalue()


@pytest.fixture
async def team(chrome: Browser, simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    simulator.switches.upload_kinds = "any"
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
async def page(chrome: Browser, team: Team) -> AsyncIterator[Page]:
    """A page of Ann, an admin, who is signed in."""
    async with opened_page(chrome) as opened:
        await opened.goto(str(team.url / "proxy/"))
        await opened.get_by_label("Your token").fill(team.ann)
        await opened.get_by_label("Your token").press("Enter")
        await opened.get_by_text("Live", exact=True).wait_for()
        yield opened


async def upload(team: Team, name: str, data: bytes) -> str:
    """Upload as Bob; the query for the file."""
    form = aiohttp.FormData()
    form.add_field("image", data, filename=name)
    async with (
        aiohttp.ClientSession(headers=bearer(team.bob)) as session,
        session.post(team.url / "upload/image", data=form) as answer,
    ):
        assert answer.status == 200
    return f"filename={name}&type=input"


async def put(team: Team, path: str, body: str, type_: str) -> None:
    async with (
        aiohttp.ClientSession(headers=bearer(team.bob)) as session,
        session.request(
            "PUT" if "etn" in path else "POST",
            team.url / path,
            data=body.encode(),
            headers={"Content-Type": type_},
        ) as answer,
    ):
        assert answer.status in (200, 201)


async def title_of(page: Page, url: URL) -> str:
    """The title of a page behind a link, once it is loaded, which is after its scripts ran."""
    opened = await page.context.new_page()
    try:
        await opened.goto(str(url))
    except Error as error:
        if "Download is starting" not in error.message:
            raise
    title = await opened.title()
    await opened.close()
    return title


@pytest.mark.parametrize(("body", "type_"), [(TRICK, "text/html"), (SVG, "image/svg+xml")])
async def test_the_script_runs_where_nothing_forbids_it(
    team: Team, page: Page, body: str, type_: str
) -> None:
    await page.context.route("**/free", lambda route: route.fulfill(body=body, content_type=type_))
    assert (await title_of(page, team.url / "free")).startswith(("ran", "stole"))


async def test_a_link_to_what_a_member_stored_runs_no_script(team: Team, page: Page) -> None:
    html, svg = (
        await upload(team, "a.html", TRICK.encode()),
        await upload(team, "b.svg", SVG.encode()),
    )
    await put(team, "api/etn/image/x", TRICK, "text/html")
    await put(team, "api/etn/image/y", SVG, "image/svg+xml")
    await put(team, "userdata/a.html", TRICK, "text/html")
    for path in (
        f"view?{html}",
        f"view?{svg}",
        "api/etn/image/x",
        "api/etn/image/y",
        "userdata/a.html",
    ):
        title = await title_of(page, URL(f"{team.url}/t/{team.bob}/{path}"))
        assert not title.startswith(("ran", "stole")), path


async def test_pictures_and_sounds_are_shown_and_played(team: Team, page: Page) -> None:
    picture, svg = (
        await upload(team, "a.png", png((5, 7))),
        await upload(team, "b.svg", SVG.encode()),
    )
    played = await upload(team, "c.wav", sound())
    base = f"{team.url}/t/{team.bob}/view?"
    await page.goto(f"{team.url}/")  # whose policy allows everything
    for query, wide in ((picture, 5), (f"{picture}&preview=webp;75", 5), (svg, 9)):
        width = await page.evaluate(
            "url => new Promise((shown, failed) => {const i = new Image();"
            "i.onload = () => shown(i.naturalWidth); i.onerror = failed; i.src = url})",
            base + query,
        )
        assert width == wide
    for element in ("audio", "video"):
        seconds = await page.evaluate(
            "([name, url]) => new Promise((loaded, failed) => {"
            "const m = document.createElement(name); m.onloadedmetadata = () => loaded(m.duration);"
            "m.onerror = () => failed(m.error); m.src = url})",
            [element, base + played],
        )
        assert seconds == pytest.approx(0.1, abs=0.05)


async def test_a_picture_or_a_sound_of_its_own_is_shown(team: Team, page: Page) -> None:
    picture, played = await upload(team, "a.png", png((5, 7))), await upload(team, "c.wav", sound())
    base = f"{team.url}/t/{team.bob}/view?"
    await page.goto(base + picture)
    assert await page.evaluate("document.images[0].naturalWidth") == 5
    await page.goto(base + played)
    await page.wait_for_function("document.querySelector('video, audio').readyState > 0")
