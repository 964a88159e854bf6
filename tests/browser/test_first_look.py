"""What a new visitor sees: the templates with their pictures, and partner nodes that can be run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.frontend import Frontend, opened_page
from packaging.version import Version
from stack import Proxy, running_proxy

from proxy.api import web_interface
from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

#: A partner node whose picture is saved.
_PARTNER_NODE = """
() => {
  app.graph.clear();
  const node = LiteGraph.createNode("FluxProUltraImageNode");
  const save = LiteGraph.createNode("SaveImage");
  app.graph.add(node);
  app.graph.add(save);
  node.connect(0, save, 0);
  return save.id;
}
"""

#: Every picture that the gallery of templates shows has arrived.
_SHOWN = """
() => {
  const every = [...document.querySelectorAll("[role=dialog] img")];
  const pictures = every.filter((one) => one.width > 100);
  return pictures.length >= 4 && pictures.every((one) => one.complete && one.naturalWidth > 0);
}
"""


@pytest.mark.parametrize("pictures", [True, False])
async def test_no_tile_of_the_gallery_is_broken(
    chrome: Browser, simulator: Simulator, proxy: Proxy, tmp_path: Path, pictures: bool
) -> None:
    simulator.switches.template_pictures = pictures
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png", greeted=True) as page:
        await page.until(_SHOWN)
        assert page.watch.unexpected() == []


async def test_a_partner_node_is_run_without_signing_in(
    chrome: Browser, proxy: Proxy, tmp_path: Path
) -> None:
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        served = await frontend.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
        installed = web_interface.installed().frontend_version
        assert installed is not None
        assert served == Version(installed).base_version
        save = await frontend.evaluate(_PARTNER_NODE)
        await frontend.page.get_by_test_id("queue-button").get_by_text("Run", exact=True).wait_for()
        await frontend.run()
        await frontend.until_picture(save, "ComfyUI_00001_.png")
        assert frontend.watch.unexpected() == []


async def test_where_the_account_does_not_pay_one_has_to_sign_in(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    interface = web_interface.installed()
    async with (
        running_proxy(
            simulator, tmp_path / "data", interface=interface, send_partner_key=False
        ) as proxy,
        Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend,
    ):
        await frontend.evaluate(_PARTNER_NODE)
        await frontend.page.get_by_text("Sign in to run").first.wait_for()


async def test_the_welcome_page_waits_for_a_slow_interface(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    loads: list[Route] = []

    async def load(route: Route) -> None:
        loads.append(route)
        if len(loads) == 1:
            await route.continue_()
            return
        await asyncio.sleep(3)  # longer than the page waits between two looks
        await route.fulfill(body="<h1>The interface</h1>", content_type="text/html")

    async def look(route: Route) -> None:
        await route.fulfill(json={"interface": "ready", "trouble": None})

    async with running_proxy(simulator, tmp_path / "data") as proxy, opened_page(chrome) as page:
        await page.route(str(proxy.url), load)
        await page.route("**/proxy/api/interface", look)
        await page.goto(str(proxy.url), wait_until="commit")
        await page.get_by_text("The interface", exact=True).wait_for()
    assert len(loads) == 2
