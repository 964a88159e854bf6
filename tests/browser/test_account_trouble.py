"""What a person sees in the browser while the account is in trouble, and when it is mended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import graphs
from browser.frontend import Frontend, opened_page
from cloud_process import CloudProcess
from stack import Client, Proxy, running_proxy
from wrong_key import OTHER_KEY, with_other_key

from proxy.api import web_interface
from proxy.cloud.event_socket import Timeouts
from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

#: Seconds without a cloud, in which the delays between attempts grow beyond the bound.
OUTAGE = 12.0
#: Seconds from the recovery until the page shows it.
BOUND = 2.0

#: Nothing is answered from a copy: what is wrong is seen at once.
QUICK = Timeouts(ready_age=0.1)

#: Lets the page keep the summaries of the toasts that are added.
_RECORDED = """
() => {
  const { toast } = app.extensionManager, add = toast.add.bind(toast);
  window.told = [];
  toast.add = (message) => { window.told.push(message.summary); add(message); };
}
"""


def interface() -> dict[str, Any]:
    """The settings of a proxy with the web interface."""
    return {"interface": web_interface.installed(), "timeouts": QUICK}


async def test_with_a_wrong_key_the_page_says_so_and_opens_when_it_is_mended(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    wrong = with_other_key(simulator)
    async with (
        running_proxy(wrong, tmp_path / "data", **interface()) as proxy,
        opened_page(chrome) as page,
    ):
        await page.goto(str(proxy.url))
        await page.get_by_role("alert").get_by_text("does not accept the API key").wait_for()
        assert await page.get_by_text("Install the extra").is_hidden()
        simulator.account.key = OTHER_KEY
        await page.wait_for_function("window.app?.extensionManager && !!app.graph")


async def test_without_api_access_the_page_names_the_plan(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.account.plan = "free"
    async with (
        running_proxy(simulator, tmp_path / "data", **interface()) as proxy,
        opened_page(chrome) as page,
    ):
        await page.goto(str(proxy.url))
        await page.get_by_role("alert").get_by_text("needs a plan with API access").wait_for()
        await page.goto(str(proxy.url / "proxy/"))
        await page.get_by_role("alert").get_by_text("needs a plan with API access").wait_for()


async def test_a_key_that_stops_working_is_a_toast_and_a_badge(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    async with (
        running_proxy(simulator, tmp_path / "data", **interface()) as proxy,
        Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend,
    ):
        refused = frontend.page.get_by_text("does not accept the API key")
        key, simulator.account.key = simulator.account.key, OTHER_KEY
        await refused.first.wait_for()
        await frontend.page.get_by_text("Not ready", exact=True).wait_for()
        simulator.account.key = key
        await frontend.page.get_by_text("Jobs are accepted again").first.wait_for()
        await frontend.page.get_by_text("Not ready", exact=True).wait_for(state="detached")
        assert frontend.watch.unexpected() == []


async def test_trouble_is_told_once_whatever_its_sentence_becomes(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    troubles = iter(["one", "two"])

    async def answer(route: Route) -> None:
        state = await (await route.fetch()).json()
        await route.fulfill(json={**state, "trouble": next(troubles, None)})

    async with (
        running_proxy(simulator, tmp_path / "data", **interface()) as proxy,
        Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend,
    ):
        page = frontend.page
        await frontend.evaluate(_RECORDED)
        await page.route("**/proxy/api/interface", answer)
        await page.wait_for_function("window.told.includes('Jobs are accepted again')")
        assert next(troubles, None) is None
        told = await frontend.evaluate("window.told")
        assert told == ["No jobs are accepted", "Jobs are accepted again"]


async def test_the_badge_of_a_cloud_that_cannot_be_reached_goes_when_it_is_back(
    chrome: Browser, cloud_process: CloudProcess, tmp_path: Path
) -> None:
    interface = web_interface.installed()
    async with (
        running_proxy(cloud_process, tmp_path / "data", interface=interface) as proxy,
        Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend,
    ):
        badge = frontend.page.get_by_text("Not ready", exact=True)
        await cloud_process.stop()
        await badge.wait_for()
        await asyncio.sleep(OUTAGE)
        await cloud_process.start()
        back = time.monotonic()
        await badge.wait_for(state="detached")
        assert time.monotonic() - back < BOUND


async def test_an_output_folder_that_is_gone_is_told_in_the_web_interface(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    async with (
        running_proxy(
            simulator, tmp_path / "data", output_directory=output, **interface()
        ) as proxy,
        Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend,
        aiohttp.ClientSession() as session,
    ):
        await asyncio.to_thread(output.rmdir)
        await Client(session, proxy.url).run(graphs.plain())
        await frontend.page.get_by_text("Outputs cannot be written").first.wait_for()
        await frontend.page.get_by_text("Problem", exact=True).wait_for()
        await asyncio.to_thread(output.mkdir)
        await frontend.page.get_by_text("Problem", exact=True).wait_for(state="detached")


async def test_the_menu_leads_to_the_dashboard_and_nobody_is_asked_to_sign_in(
    chrome: Browser, proxy: Proxy, tmp_path: Path
) -> None:
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        assert await frontend.page.get_by_test_id("login-button").is_hidden()
        async with frontend.page.context.expect_page() as opened:
            await frontend.menu("Comfy Cloud", "Dashboard")
        dashboard = await opened.value
        await dashboard.get_by_text("No jobs running").wait_for()
