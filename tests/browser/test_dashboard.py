"""The dashboard in a real browser: an admin's day, and what a member sees of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import graphs
import pytest
from browser.frontend import PATIENCE
from browser.watch import Watch
from stack import running_proxy
from yarl import URL

from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.timeout(180)


@dataclass
class Gateway:
    """A proxy with the members anna (an admin) and ben, and their tokens."""

    url: URL
    tokens: dict[str, str]
    session: aiohttp.ClientSession

    async def submit(self, member: str, graph: dict[str, object], **more: object) -> str:
        """Submit a job; its id."""
        headers = {"Authorization": f"Bearer {self.tokens[member]}"}
        async with self.session.post(
            self.url / "prompt", json={"prompt": graph, **more}, headers=headers
        ) as answer:
            assert answer.status == 200, await answer.text()
            return str(json.loads(await answer.read())["prompt_id"])


@pytest.fixture
async def gateway(
    chrome: Browser, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Gateway]:
    directory = await Directory.open(tmp_path)
    tokens = {}
    for member in (Member("anna", role="admin"), Member("ben")):
        await directory.add(member)
        tokens[member.name], _ = await directory.new_token(member.name, note="laptop")
    await directory.close()
    async with running_proxy(simulator, tmp_path, slots=1, slots_ahead=0) as proxy:
        yield Gateway(proxy.url, tokens, session)


@asynccontextmanager
async def signed_in(chrome: Browser, gateway: Gateway, member: str) -> AsyncIterator[Page]:
    """The dashboard, by way of the sign-in page; nothing may go wrong in it."""
    context = await chrome.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    watch = Watch(gateway.url)
    watch.over(page)
    await page.goto(str(gateway.url / "proxy/"))
    await page.get_by_label("Your token").fill(gateway.tokens[member])
    await page.keyboard.press("Enter")
    await page.get_by_text("live", exact=True).wait_for()
    try:
        yield page
        assert watch.unexpected() == []
    finally:
        await context.close()


async def test_an_admin_sees_everybody_and_cancels_a_waiting_job(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "anna") as page:
        runs = await gateway.submit("ben", graphs.sampled(steps=60))
        waits = await gateway.submit("anna", graphs.sampled(steps=60))
        running = page.locator("#running tbody tr")
        await running.filter(has_text=runs[:8]).filter(has_text="KSampler").wait_for()
        waiting = page.locator("#waiting tbody tr").filter(has_text=waits[:8])
        await waiting.get_by_text("every slot is taken").wait_for()
        await waiting.get_by_role("button").focus()
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Cancel it").focus()
        await page.keyboard.press("Enter")
        await waiting.wait_for(state="detached")
        await page.locator("#usage tbody tr").filter(has_text="ben").wait_for()


async def test_jobs_of_two_members_may_have_one_id(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    prompt_id = "0f0f0f0f-0000-4000-8000-000000000000"
    async with signed_in(chrome, gateway, "anna") as page:
        await gateway.submit("anna", graphs.sampled(steps=60))
        for member in ("anna", "ben"):
            await gateway.submit(member, graphs.sampled(steps=60), prompt_id=prompt_id)
        waiting = page.locator("#waiting tbody tr")
        for member in ("anna", "ben"):
            await waiting.filter(has_text=member).wait_for()
        for member in ("ben", "anna"):
            headers = {"Authorization": f"Bearer {gateway.tokens[member]}"}
            async with gateway.session.post(
                gateway.url / "queue", json={"clear": True}, headers=headers
            ) as answer:
                assert answer.status == 200
            await waiting.filter(has_text=member).wait_for(state="detached")
        assert await waiting.count() == 0


async def test_a_failure_is_shown_with_its_node(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        failed = await gateway.submit("ben", graphs.raising())
        row = page.locator("#failures tbody tr").filter(has_text=failed[:8])
        await row.filter(has_text="ben").wait_for()


async def test_members_and_tokens_are_managed(chrome: Browser, gateway: Gateway) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        await page.get_by_label("Name").fill("cleo")
        await page.get_by_label("Jobs a day").fill("20")
        await page.get_by_role("button", name="Add", exact=True).click()
        row = page.locator("#members > table tbody tr").filter(has_text="cleo")
        await row.filter(has_text="20 jobs a day").wait_for()
        await row.get_by_role("button", name="New token for cleo").click()
        token = page.locator("#token-made code")
        await token.filter(has_text="ccp_").wait_for()
        headers = {"Authorization": f"Bearer {await token.inner_text()}"}
        async with gateway.session.get(gateway.url / "queue", headers=headers) as answer:
            assert answer.status == 200
        await page.get_by_role("button", name="Done").click()
        await page.locator("#token-made code:empty").wait_for(state="attached")
        await row.get_by_role("button", name="Disable cleo").click()
        await page.get_by_role("button", name="Disable", exact=True).click()
        await row.get_by_text("disabled").wait_for()
        async with gateway.session.get(gateway.url / "queue", headers=headers) as answer:
            assert answer.status == 401
        tokens = page.locator("#tokens tbody tr").filter(has_text="cleo")
        await tokens.get_by_role("button").click()
        await page.get_by_role("button", name="Revoke", exact=True).click()
        await tokens.wait_for(state="detached")


async def test_a_member_sees_only_the_own_things(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "ben") as page:
        others = await gateway.submit("anna", graphs.sampled(steps=60))
        own = await gateway.submit("ben", graphs.sampled(steps=60))
        await page.locator("#waiting tbody tr").filter(has_text=own[:8]).wait_for()
        text = await page.content()
        assert others[:8] not in text
        assert "anna" not in text
        assert not await page.locator("#members").is_visible()
        assert not await page.locator("#accounts").is_visible()


async def test_who_signs_out_or_loses_the_token_sees_nothing_more(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "ben") as page:
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Your token").wait_for()
        await page.goto(str(gateway.url / "proxy/"))
        await page.get_by_label("Your token").wait_for()
