"""The page of a job in a real browser: while it runs, when it has ended, and what it leads to."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import graphs
import pytest
from browser.expectations import expect
from browser.test_dashboard import LONG, Gateway, signed_in, two_members, until_drawn, until_ended
from stack import running_proxy

from proxy.api import web_interface
from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser

Axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe


@pytest.fixture
async def gateway(
    chrome: Browser, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Gateway]:
    tokens = await two_members(tmp_path)
    interface = web_interface.installed()
    async with running_proxy(simulator, tmp_path, slots=1, interface=interface) as proxy:
        yield Gateway(proxy.url, tokens, session)


async def test_a_running_job_shows_its_nodes_its_preview_and_the_time_that_is_left(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.05
    async with signed_in(chrome, gateway, "ben") as page:
        await until_ended(page, await gateway.submit("ben", graphs.sampled(1, steps=30)))
        simulator.switches.pace = 0.5
        job = await gateway.submit("ben", graphs.sampled(2, steps=LONG))
        row = page.locator("#running li")
        await row.get_by_text(re.compile(r"KSampler · (about .* left|almost done)")).wait_for()
        await row.get_by_role("link").click()
        nodes = page.locator("#nodes tbody tr")
        sampler = nodes.filter(has_text="KSampler")
        await sampler.get_by_text(re.compile(rf"running, step \d+ of {LONG}")).wait_for()
        await nodes.filter(has_text="VAEDecode").get_by_text("not begun").wait_for()
        loader = nodes.filter(has_text="CheckpointLoaderSimple").locator(".time")
        await expect(loader).to_have_text(re.compile(r"^(cached|[\d.]+ m?s)$"))
        progress = page.locator("#run")
        words = re.compile(r"\d nodes? done, 1 running, \d not begun · (about|almost)")
        await progress.get_by_text(words).wait_for()
        await until_drawn(progress.locator("img"))
        assert (await Axe().run(page)).violations_count == 0
        await page.get_by_role("button", name="Cancel job").click()
        await page.locator("#ask [value=yes]").click()
        await page.locator(".headline").get_by_text("Cancelled", exact=True).wait_for()
        await expect(progress).to_be_hidden()
        assert job in page.url


async def test_progress_follows_the_time_of_nodes_and_not_their_number(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    """All nodes but one are done at once, and the sampler runs for as good as all of the time."""
    simulator.switches.pace = 0.05
    async with signed_in(chrome, gateway, "ben") as page:
        await until_ended(page, await gateway.submit("ben", graphs.sampled(1, steps=30)))
        simulator.switches.pace = 0.5
        await gateway.submit("ben", graphs.sampled(2, steps=LONG))
        await page.locator("#running li").filter(has_text="KSampler").wait_for()
        percent = await page.locator("#running .percent").inner_text()
        assert int(percent.removesuffix(" %")) < 40
        await gateway.session.post(
            gateway.url / "interrupt", headers={"Authorization": f"Bearer {gateway.tokens['ben']}"}
        )


async def test_a_graph_that_never_ran_has_no_estimate(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "ben") as page:
        await gateway.submit("ben", graphs.sampled(steps=LONG))
        await page.locator("#running li").get_by_role("link").click()
        words = page.locator("#run").get_by_text(re.compile(r"1 running, \d not begun$"))
        await words.wait_for()


async def test_the_traceback_of_an_error_is_shown_on_demand(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "ben") as page:
        card = await until_ended(page, await gateway.submit("ben", graphs.raising()))
        await card.click()
        traceback = page.get_by_label("Traceback")
        await page.get_by_text("Traceback", exact=True).wait_for()
        await expect(traceback).to_be_hidden()
        await page.get_by_text("Traceback", exact=True).click()
        await traceback.filter(has_text="File ").wait_for()


async def test_what_was_sent_is_shown_downloaded_and_run_again(
    chrome: Browser, gateway: Gateway, tmp_path: Path
) -> None:
    workflow = {"nodes": [], "links": [], "version": 0.4, "extra": {"mark": 7}}
    async with signed_in(chrome, gateway, "ben") as page:
        graph = graphs.sampled(text="a night market")
        job = await gateway.submit(
            "ben", graph, extra_data={"extra_pnginfo": {"workflow": workflow}}
        )
        await (await until_ended(page, job)).click()
        sent = page.locator("#sent")
        await sent.get_by_text("Positive · CLIPTextEncode").wait_for()
        await sent.get_by_text("a night market").wait_for()
        for label, content in (
            ("Download the workflow", workflow),
            ("Download in API format", graph),
        ):
            async with page.expect_download() as downloading:
                await sent.get_by_role("link", name=label).click()
            download = await downloading.value
            assert download.suggested_filename.endswith(f"{job}.json")
            saved = tmp_path / "workflow.json"
            await download.save_as(saved)
            assert json.loads(saved.read_text(encoding="utf-8")) == content
        await page.get_by_role("button", name="Run again").click()
        await page.wait_for_function("(id) => !location.hash.includes(id)", arg=job)
        await page.locator(".headline").get_by_text("Done", exact=True).wait_for()
        await sent.get_by_text("a night market").wait_for()
        assert (await Axe().run(page)).violations_count == 0


async def test_without_the_web_interface_no_link_leads_there(
    chrome: Browser, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    tokens = await two_members(tmp_path)
    async with running_proxy(simulator, tmp_path) as proxy:
        gateway = Gateway(proxy.url, tokens, session)
        async with signed_in(chrome, gateway, "ben") as page:
            await (await until_ended(page, await gateway.submit("ben", graphs.plain()))).click()
            await page.get_by_role("link", name="Download in API format").wait_for()
            link = page.get_by_role("link", name="Open in the web interface")
            await expect(link).to_have_count(0)


async def test_an_admin_sees_what_others_sent_and_does_not_run_it_as_them(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        job = await gateway.submit("ben", graphs.sampled(text="a night market"))
        await (await until_ended(page, job)).click()
        await page.locator("#sent").get_by_text("a night market").wait_for()
        await expect(page.get_by_role("button", name="Run again")).to_be_hidden()


@pytest.mark.parametrize("form", ["interface", "api"])
async def test_the_workflow_opens_in_the_web_interface(
    chrome: Browser, gateway: Gateway, form: str
) -> None:
    example = json.loads((Path(__file__).parent / "workflow.json").read_text(encoding="utf-8"))
    more = {"extra_data": {"extra_pnginfo": {"workflow": example}}} if form == "interface" else {}
    count = len(example["nodes"]) if form == "interface" else len(graphs.sampled())
    async with signed_in(chrome, gateway, "ben") as page:
        job = await gateway.submit("ben", graphs.sampled(), **more)
        await (await until_ended(page, job)).click()
        async with page.context.expect_page() as opening:
            await page.get_by_role("link", name="Open in the web interface").click()
        opened = await opening.value
        await opened.wait_for_function(
            "(count) => window.app?.graph?.nodes?.length === count && !location.search", arg=count
        )
        tab = opened.get_by_text(f"job-{job[:8]}").first
        await tab.wait_for(state="attached")
