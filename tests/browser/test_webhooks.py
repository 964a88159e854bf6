"""The page of webhooks in a browser: a member adds one, tests it, and finds out what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import graphs
import pytest
from browser.expectations import expect
from browser.test_dashboard import Gateway, signed_in, two_members
from receiver import Receiver, receiving
from stack import running_proxy

from proxy.runtime.backoff import Backoff
from proxy.simulator import Simulator
from proxy.webhooks.delivery import RetrySchedule

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

Axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe

QUICK = {"webhooks": RetrySchedule(timeout=10.0, backoff=Backoff(0.05, 0.2))}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def gateway(
    chrome: Browser, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Gateway]:
    tokens = await two_members(tmp_path)
    settings = {"policy": QUICK, "webhook_networks": "127.0.0.1"}
    async with running_proxy(simulator, tmp_path, **settings) as proxy:
        yield Gateway(proxy.url, tokens, session)


async def add(page: Page, url: str) -> str:
    """Add a webhook with the form of the page; its secret."""
    await page.get_by_label("URL").fill(url)
    await page.get_by_role("button", name="Add webhook").click()
    secret = page.locator("#secret [data-of=secret]").filter(has_text="whsec_")
    text = await secret.inner_text()
    await page.get_by_role("button", name="Done").click()
    await secret.wait_for(state="detached")
    return text


async def test_a_member_adds_tests_and_removes_a_webhook(
    chrome: Browser, gateway: Gateway, receiver: Receiver
) -> None:
    url = str(receiver.url / "hook")
    async with signed_in(chrome, gateway, "ben") as page:
        await page.get_by_role("link", name="Webhooks").click()
        await page.get_by_text("No webhooks").wait_for()
        await expect(page.get_by_text("For the jobs of all members")).to_have_count(0)
        await expect(page.get_by_label("Account unavailable")).to_be_hidden()
        await page.get_by_label("Cancelled").uncheck()
        secret = await add(page, url)
        assert secret not in await page.content()
        row = page.locator("#webhooks li").filter(has_text=url)
        await row.get_by_text("Completed · Failed", exact=True).wait_for()

        await row.get_by_role("button", name="Test").click()
        (received,) = await receiver.until(1)
        received.verified(secret)
        entry = row.locator(".log li").filter(has_text="webhook.test")
        await entry.get_by_text("delivered", exact=True).wait_for()
        await entry.get_by_text("204").wait_for()
        await row.get_by_role("button", name="Log", expanded=True).wait_for()

        await gateway.submit("ben", graphs.plain(1))
        await receiver.until(2)
        assert (await Axe().run(page)).violations_count == 0
        await row.get_by_role("button", name="Remove").click()
        await page.locator("#ask").get_by_role("button", name="Remove").click()
        await page.get_by_text("No webhooks").wait_for()


async def test_a_disabled_webhook_is_a_note_on_every_page_until_it_is_enabled(
    chrome: Browser, gateway: Gateway, receiver: Receiver
) -> None:
    receiver.answer("/hook", 410)
    url = str(receiver.url / "hook")
    async with signed_in(chrome, gateway, "ben") as page:
        await page.get_by_role("link", name="Webhooks").click()
        await add(page, url)
        await gateway.submit("ben", graphs.plain(1))
        await page.get_by_role("link", name="Usage").click()
        await page.get_by_role("link", name="1 webhook is disabled").click()
        row = page.locator("#webhooks li").filter(has_text=url)
        await row.get_by_text("The endpoint is gone (410).").first.wait_for()
        await row.get_by_role("button", name="Enable").click()
        await row.get_by_role("button", name="Disable").wait_for()
        await page.locator("#webhooks-off").wait_for(state="hidden")


async def test_an_admin_adds_a_webhook_of_the_gateway_and_sees_those_of_members(
    chrome: Browser, gateway: Gateway, receiver: Receiver
) -> None:
    async with signed_in(chrome, gateway, "ben") as page:
        await page.get_by_role("link", name="Webhooks").click()
        await add(page, str(receiver.url / "bens"))
    async with signed_in(chrome, gateway, "anna") as page:
        await page.get_by_role("link", name="Webhooks").click()
        bens = page.locator("#webhooks li").filter(has_text="/bens")
        await bens.get_by_text("ben", exact=True).wait_for()
        await page.get_by_label("For the jobs of all members").check()
        await page.get_by_label("Account unavailable").check()
        secret = await add(page, str(receiver.url / "all"))
        row = page.locator("#webhooks li").filter(has_text="/all")
        await row.get_by_text("all members", exact=True).wait_for()
        await gateway.submit("ben", graphs.plain(1))
        (received,) = await receiver.until(1, "/all")
        assert received.verified(secret)["data"]["member"] == "ben"


async def test_what_cannot_be_a_webhook_is_shown_in_the_form(
    chrome: Browser, gateway: Gateway
) -> None:
    refused = "400 POST .*/proxy/api/webhooks"
    async with signed_in(chrome, gateway, "ben", refused=(refused,)) as page:
        await page.get_by_role("link", name="Webhooks").click()
        await page.get_by_label("URL").fill("http://10.0.0.1/hook")
        await page.get_by_role("button", name="Add webhook").click()
        await page.get_by_role("alert").filter(has_text="webhook_networks").wait_for()
