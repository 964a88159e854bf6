"""Pages of other origins in a real browser: what `cors_origins` lets them do, and what not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from team import Team, running_team

from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Page

#: Runs in the page: `{status, text, headers}` of a request, or the name of the error.
ASK = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        const headers = Object.fromEntries(answer.headers.entries());
        return {status: answer.status, text: await answer.text(), headers};
    } catch (error) { return error.name; }
}"""


@pytest.fixture
async def sites() -> AsyncIterator[list[str]]:
    """Two origins of somebody else."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    for _ in range(2):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield [f"http://127.0.0.1:{address[1]}" for address in runner.addresses]
    await runner.cleanup()


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path, sites: list[str]) -> AsyncIterator[Team]:
    """A proxy that allows the first of the origins."""
    async with running_team(simulator, tmp_path / "data", cors_origins=sites[0]) as running:
        yield running


async def test_a_page_of_the_list_uses_every_route(
    page: Page, team: Team, sites: list[str]
) -> None:
    await page.goto(f"{sites[0]}/")

    async def ask(path: str, token: str | None = team.ann, **options: Any) -> Any:
        headers = {"Content-Type": "application/json", "X-Odd": "1"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await page.evaluate(
            ASK, [str(team.url.with_path(path)), {"headers": headers, **options}]
        )

    queue = await ask("/queue")
    assert (queue["status"], queue["text"]) == (200, '{"queue_running": [], "queue_pending": []}')
    assert (await ask("/api/prompt", method="POST", body="{}"))["status"] == 400
    assert (await ask("/userdata/a.json", method="POST", body="{}"))["status"] == 200
    assert (await ask("/userdata/a.json", method="DELETE"))["status"] == 204
    changed = await ask("/proxy/api/members/bob", method="PATCH", body='{"weight": 2}')
    assert changed["status"] == 200
    refused = await ask("/proxy/api/members", token=None)
    assert refused["status"] == 401
    assert "www-authenticate" in refused["headers"]
    assert await ask("/queue", credentials="include") != "TypeError"


async def test_other_pages_get_nothing(page: Page, team: Team, sites: list[str]) -> None:
    await page.goto(f"{sites[1]}/")
    for options in ({}, {"method": "POST", "body": "{}", "headers": {"X-API-Key": team.ann}}):
        assert await page.evaluate(ASK, [str(team.url / "queue"), options]) == "TypeError"
