"""Pages of other sites in a browser, before a proxy without members: one whose name is pointed at
this machine (DNS rebinding), and one that sends what a page may send to another site."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphs
import pytest
from aiohttp import web
from stack import Client, Proxy, running_proxy

from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Page

#: A name that the browser resolves to this machine.
REBOUND = "gateway.test"

#: Runs in the page: the statuses of requests, 0 where it learns nothing.
ASK = """async (requests) => {
    const found = [];
    for (const [url, options] of requests) {
        try { found.push((await fetch(url, options)).status); } catch { found.push(0); }
    }
    return found;
}"""

#: Runs in the page: whether a websocket opens.
LISTEN = """(url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve(true);
    socket.onerror = () => resolve(false);
})"""

#: Runs in the page: send a form to a frame, and wait for that.
SEND = """([url, type, name, value]) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = "target";
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, {action: url, method: "POST", enctype: type, target: "target"});
    const field = document.createElement("input");
    Object.assign(field, {type: "hidden", name, value});
    form.append(field);
    document.body.append(form);
    frame.onload = () => { frame.remove(); resolve(); };
    form.submit();
})"""

BODY = json.dumps({"prompt": graphs.plain()})


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """Another site."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><body>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://{REBOUND}:{runner.addresses[0][1]}/"
    await runner.cleanup()


def requests_at(root: str, **more: Any) -> list[Any]:
    """What a page would ask for, and change."""
    return [
        [f"{root}/queue", more],
        [f"{root}/history", more],
        [f"{root}/object_info", more],
        [f"{root}/proxy/api/state", more],
        [f"{root}/prompt", {"method": "POST", "body": BODY, **more}],
        [f"{root}/interrupt", {"method": "POST", **more}],
        [f"{root}/userdata/a.json", {"method": "POST", "body": "{}", **more}],
    ]


async def test_a_page_whose_name_is_pointed_here_gets_and_changes_nothing(
    page: Page, proxy: Proxy, simulator: Simulator
) -> None:
    root = f"http://{REBOUND}:{proxy.url.port}"

    answer = await page.goto(f"{root}/")  # the page is of the origin of that name
    assert answer is not None
    assert answer.status == 403
    assert set(await page.evaluate(ASK, requests_at(root))) == {403}
    assert not await page.evaluate(LISTEN, f"ws://{REBOUND}:{proxy.url.port}/ws")
    assert not simulator.jobs


async def test_a_page_of_another_site_gets_and_changes_nothing(
    page: Page, proxy: Proxy, client: Client, simulator: Simulator, site: str
) -> None:
    root = f"http://127.0.0.1:{proxy.url.port}"
    await page.goto(site)
    assert set(await page.evaluate(ASK, requests_at(root))) == {0}
    await page.evaluate(ASK, requests_at(root, mode="no-cors", credentials="include"))
    assert not await page.evaluate(LISTEN, f"ws://127.0.0.1:{proxy.url.port}/ws")
    begin, end = BODY[:-1] + ', "a": "', '"}'
    await page.evaluate(SEND, [f"{root}/prompt", "text/plain", begin, end])
    await page.evaluate(SEND, [f"{root}/prompt", "multipart/form-data", "prompt", BODY])
    await page.evaluate(SEND, [f"{root}/upload/image", "multipart/form-data", "image", "x"])
    assert not simulator.jobs
    assert (await client.get("userdata/a.json"))[0] == 404

    await page.goto(f"{root}/queue")  # the same from a page of the server
    assert set(await page.evaluate(ASK, requests_at(root))) == {200}
    await page.evaluate(SEND, [f"{root}/prompt", "text/plain", begin, end])
    assert len(simulator.jobs) == 2
