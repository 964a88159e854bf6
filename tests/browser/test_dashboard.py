"""The dashboard in a real browser: an admin's day, and what a member sees of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import graphs
import pytest
from browser.frontend import PATIENCE
from browser.reverse_proxy import free_port, nginx
from browser.watch import Watch
from stack import running_proxy
from yarl import URL

from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

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


async def two_members(folder: Path) -> dict[str, str]:
    """The members in a data folder, and their tokens."""
    directory = await Directory.open(folder)
    tokens = {}
    for member in (Member("anna", role="admin"), Member("ben")):
        await directory.add(member)
        tokens[member.name], _ = await directory.new_token(member.name, note="laptop")
    await directory.close()
    return tokens


@pytest.fixture
async def gateway(
    chrome: Browser, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Gateway]:
    tokens = await two_members(tmp_path)
    async with running_proxy(simulator, tmp_path, slots=1, slots_ahead=0) as proxy:
        yield Gateway(proxy.url, tokens, session)


@asynccontextmanager
async def signed_in(
    chrome: Browser,
    gateway: Gateway,
    member: str,
    *,
    url: URL | None = None,
    width: int = 1280,
    refused: tuple[str, ...] = (),
) -> AsyncIterator[Page]:
    """The dashboard, by way of the sign-in page; nothing may go wrong in it.

    `url` is another way to the gateway, `refused` are answers that are part of the story, written
    as a pattern of `STATUS METHOD PATH`.
    """
    home = url or gateway.url
    context = await chrome.new_context(viewport={"width": width, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    watch = Watch(home)
    watch.over(page)
    await page.goto(str(home / "proxy/"))
    await page.get_by_label("Your token").fill(gateway.tokens[member])
    await page.keyboard.press("Enter")
    await page.get_by_text("live", exact=True).wait_for()
    try:
        yield page
        unexpected = watch.unexpected()
        assert [one for one in unexpected if not any(re.fullmatch(r, one) for r in refused)] == []
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


async def test_a_refused_stream_of_events_is_asked_for_again(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna", refused=(r"502 GET /proxy/api/events",)) as page:
        await page.route("**/api/events", lambda route: route.fulfill(status=502), times=1)
        await page.reload()
        await page.get_by_text("trying again").wait_for()
        await page.get_by_text("live", exact=True).wait_for()
        job = await gateway.submit("ben", graphs.plain())
        await page.locator("#usage tbody tr").filter(has_text="ben").wait_for()
        assert job


async def test_it_is_live_again_after_a_restart_behind_nginx(
    chrome: Browser, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data, refused = tmp_path / "data", (r"50[24] GET /proxy/api/(events|state|members|tokens)",)
    tokens, port = await two_members(data), free_port()
    async with nginx(tmp_path / "nginx", port) as front, AsyncExitStack() as page_open:
        async with running_proxy(simulator, data, port=port) as proxy:
            gateway = Gateway(proxy.url, tokens, session)
            page = await page_open.enter_async_context(
                signed_in(chrome, gateway, "anna", url=front, refused=refused)
            )
        await page.get_by_text("trying again").wait_for()
        async with page.expect_response(lambda answer: answer.status == 502):
            pass
        async with running_proxy(simulator, data, port=port):
            await page.get_by_text("live", exact=True).wait_for()
            await gateway.submit("ben", graphs.plain())
            await page.locator("#usage tbody tr").filter(has_text="ben").wait_for()
            await page_open.aclose()


async def test_who_loses_the_token_is_told_to_sign_in_again(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "ben", refused=(r"401 GET /proxy/api/.*",)) as page:
        async with gateway.session.delete(
            gateway.url / "proxy/api/tokens" / gateway.tokens["ben"][:12],
            headers={"Authorization": f"Bearer {gateway.tokens['anna']}"},
        ) as answer:
            assert answer.status == 204
        await page.get_by_role("link", name="Sign in again").click()
        await page.get_by_label("Your token").wait_for()


async def test_why_an_action_was_refused_stays_until_it_is_dismissed(
    chrome: Browser, gateway: Gateway
) -> None:
    refused = (r"409 PATCH /proxy/api/members/anna",)
    async with signed_in(chrome, gateway, "anna", refused=refused) as page:
        await page.get_by_role("button", name="Disable anna").click()
        await page.get_by_role("button", name="Disable", exact=True).click()
        told = page.get_by_role("alert").filter(has_text="You would shut yourself out")
        await told.wait_for()
        async with gateway.session.post(
            gateway.url / "proxy/api/tokens",
            json={"member": "ben", "note": "drawn anew"},
            headers={"Authorization": f"Bearer {gateway.tokens['anna']}"},
        ) as answer:
            assert answer.status == 201
        await page.locator("#tokens tbody tr").filter(has_text="drawn anew").wait_for()
        assert await told.is_visible()
        assert await _in_view(told)
        await page.get_by_role("button", name="Dismiss").click()
        await told.wait_for(state="hidden")


async def test_what_is_wrong_with_a_new_member_is_told_beside_the_form(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(
        chrome, gateway, "anna", width=375, refused=(r"409 POST /proxy/api/members",)
    ) as page:
        await page.get_by_label("Name").fill("ben")
        await page.get_by_role("button", name="Add", exact=True).click()
        told = page.locator("#new-member [role=alert]").filter(has_text="There is a member ben")
        await told.wait_for()
        assert await _in_view(told)
        await page.get_by_label("Name").fill("cleo")
        await page.get_by_role("button", name="Add", exact=True).click()
        await page.locator("#members > table tbody tr").filter(has_text="cleo").wait_for()
        assert not await told.is_visible()


async def test_a_token_is_copied_on_plain_http_too(chrome: Browser, gateway: Gateway) -> None:
    url = gateway.url.with_host("gateway.test")
    async with signed_in(chrome, gateway, "anna", url=url) as page:
        assert await page.evaluate("navigator.clipboard === undefined")
        await page.get_by_role("button", name="New token for ben").click()
        token = await page.locator("#token-made code").filter(has_text="ccp_").inner_text()
        await page.get_by_role("button", name="Copy").click()
        await page.get_by_text("Copied.").wait_for()
        await page.get_by_role("button", name="Done").click()
        name = page.get_by_label("Name")
        await name.focus()
        await page.keyboard.press("Control+V")
        assert await name.input_value() == token


async def test_everything_is_within_reach_and_readable_on_a_phone(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    async with signed_in(chrome, gateway, "anna", width=375) as page:
        await gateway.submit("ben", graphs.raising())
        await page.locator("#failures tbody tr").wait_for()
        simulator.switches.pace = 0.5
        for member in ("anna", "ben"):
            await gateway.submit(member, graphs.sampled(steps=60))
        await page.locator("#running tbody tr").get_by_text("KSampler").wait_for()
        await page.locator("#waiting tbody tr").wait_for()
        assert await page.evaluate(_BEYOND_THE_EDGE) == []
        assert await page.evaluate(_BROKEN_WORDS) == []


#: What lies beside a page that is as wide as the screen.
_BEYOND_THE_EDGE = """
() => [...document.querySelectorAll("main *")]
  .filter((one) => one.checkVisibility() && !one.closest("thead"))
  .filter((one) => Math.max(one.getBoundingClientRect().right, one.scrollWidth) > innerWidth + 0.5)
  .map((one) => one.outerHTML)
"""

#: Words that stand on two lines.
_BROKEN_WORDS = """
() => {
  const found = [], main = document.querySelector("main");
  const walk = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode, place = text.parentElement;
    if (!place.checkVisibility() || place.closest("thead, option")) continue;
    for (const word of text.data.matchAll(/[\\w.…-]+/g)) {
      const range = new Range();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(word[0]);
    }
  }
  return found;
}
"""


async def _in_view(found: Locator) -> bool:
    """Whether a person sees it without scrolling."""
    return bool(
        await found.evaluate(
            """(one) => {
              const { top, left, bottom, right } = one.getBoundingClientRect();
              return top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth;
            }"""
        )
    )


async def test_a_running_job_that_cannot_be_followed_says_why(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "anna") as page:
        job = await gateway.submit("ben", graphs.sampled(steps=600))
        running = page.locator("#running tbody tr").filter(has_text=job[:8])
        await running.filter(has_text="KSampler").wait_for()
        simulator.account.key = "comfyui-another-key-0123456789"
        simulator.drop_sockets()
        await running.get_by_text("the account's key does not work").wait_for()
