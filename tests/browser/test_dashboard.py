"""The dashboard in a real browser: an admin's day, and what a member sees of it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import graphs
import pytest
from backend import open_database
from browser.expectations import expect
from browser.frontend import opened_page
from browser.gallery import busy_gateway
from browser.reverse_proxy import caddy, nginx
from browser.watch import Watch
from databases import FolderDirectory
from servers import free_port
from stack import running_proxy
from yarl import URL

from proxy.members.member import Member
from proxy.simulator import Simulator
from proxy.storage.held import hold_waiting
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload
from proxy.storage.usage import day_of

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page, Route

Axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe

#: Steps of a job that runs for as long as a test looks at it.
LONG = 1000


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
    directory = await FolderDirectory.open(folder)
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
    async with running_proxy(simulator, tmp_path, slots=1) as proxy:
        yield Gateway(proxy.url, tokens, session)


#: Where a dialog shows a secret, and a link with it.
SECRET, LINK = "#secret [data-of=secret]", "#secret [data-of=link]"


@asynccontextmanager
async def signed_in(
    chrome: Browser,
    gateway: Gateway,
    member: str,
    *,
    url: URL | None = None,
    width: int = 1280,
    scheme: Literal["light", "dark"] = "light",
    refused: tuple[str, ...] = (),
) -> AsyncIterator[Page]:
    """The dashboard, by way of the sign-in page; nothing may go wrong in it.

    `url` is another way to the gateway, `refused` are answers that are part of the story, written
    as a pattern of `STATUS METHOD PATH`.
    """
    home = url or gateway.url
    viewport = {"width": width, "height": 900}
    async with opened_page(chrome, viewport=viewport, color_scheme=scheme) as page:
        watch = Watch(home)
        watch.over(page)
        await page.goto(str(home / "proxy/"))
        await page.get_by_label("Your token").fill(gateway.tokens[member])
        await page.get_by_label("Your token").press("Enter")
        await page.get_by_text("Live", exact=True).wait_for()
        yield page
        unexpected = watch.unexpected()
        assert [
            line for line in unexpected if not any(re.fullmatch(r, line) for r in refused)
        ] == []


async def until_drawn(picture: Locator) -> None:
    """Wait until a picture is there and has arrived."""
    await expect(picture).not_to_have_js_property("naturalWidth", 0)


async def until_ended(page: Page, job: str) -> Locator:
    """The card of a job that has ended."""
    card = page.locator(f".gallery a[href$='{job}']")
    await card.wait_for()
    return card


async def test_an_admin_sees_everybody_and_cancels_a_waiting_job_by_keyboard(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "anna") as page:
        await page.get_by_text("No jobs running").wait_for()
        await page.get_by_text("No jobs waiting").wait_for()
        runs = await gateway.submit("ben", graphs.sampled(steps=LONG))
        waits = await gateway.submit("anna", graphs.sampled(steps=LONG))
        running = page.locator("#running li").filter(has_text=runs[:8])
        await running.filter(has_text="KSampler").wait_for()
        await running.filter(has_text="v1-5-pruned-emaonly-fp16").wait_for()
        group = page.locator("#waiting details").filter(has_text="anna")
        await group.get_by_text("all slots are in use").wait_for()
        cancel = group.get_by_role("button", name=f"Cancel job {waits[:8]} of anna")
        await cancel.press("Enter")
        await page.get_by_role("button", name="Cancel job", exact=True).press("Enter")
        await group.wait_for(state="detached")
        await page.get_by_text("No jobs waiting").wait_for()
        used = page.locator("#usage li").filter(has_text="ben")
        await used.get_by_text("1 job · 0 outputs · 0 credits").wait_for()


async def test_a_failure_is_shown_with_its_error_and_its_node(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        failed = await gateway.submit("ben", graphs.raising())
        card = await until_ended(page, failed)
        for words in ("Failed", "ben", "SimulatorRaise: boom"):
            await card.get_by_text(words, exact=True).wait_for()
        await card.press("Enter")
        await page.get_by_role("heading", name="EmptyImage").wait_for()
        error = page.locator("#error")
        await error.get_by_text("ValueError").wait_for()
        await error.get_by_text("boom", exact=True).wait_for()
        await page.locator("tr.failed").filter(has_text="SimulatorRaise").wait_for()
        await expect(page).to_have_title("Job · comfy-cloud-proxy")


async def test_whatever_clients_call_a_job_is_text(chrome: Browser, gateway: Gateway) -> None:
    name = "<img src=x onerror=alert(1)> & Söhne"
    async with signed_in(chrome, gateway, "anna") as page:
        await gateway.submit("ben", graphs.plain(), extra_data={"workflow_name": name})
        await page.locator(".gallery a").filter(has_text=name).click()
        await page.get_by_role("heading", name=name).wait_for()
        await until_drawn(page.locator("#outputs img"))
        await expect(page.locator("h1 img")).to_have_count(0)


async def test_jobs_are_searched_and_filtered(chrome: Browser, gateway: Gateway) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        named = {"extra_data": {"workflow_name": "Night market"}}
        night = await gateway.submit("ben", graphs.plain(), **named)
        failed = await gateway.submit("anna", graphs.raising())
        await until_ended(page, failed)
        await until_ended(page, night)
        await page.get_by_role("link", name="All jobs").click()
        cards = page.locator(".gallery li")
        await cards.nth(1).wait_for()
        await page.get_by_role("button", name="Failed").click()
        await cards.filter(has_text="Night market").wait_for(state="detached")
        await expect(cards).to_have_count(1)
        await page.get_by_role("button", name="All", exact=True).click()
        await page.get_by_label("Search jobs").fill("night MARKET")
        await cards.filter(has_text="EmptyImage").wait_for(state="detached")
        await page.reload()
        await cards.filter(has_text="Night market").wait_for()
        await expect(cards).to_have_count(1)
        await page.get_by_label("Search jobs").fill("no such thing")
        await page.get_by_text("No jobs match").wait_for()
        await page.get_by_label("Search jobs").fill("")
        await page.get_by_label("Member").select_option("anna")
        await cards.filter(has_text="EmptyImage").wait_for()
        await cards.filter(has_text="Night market").wait_for(state="detached")


async def test_more_jobs_are_loaded_on_demand(chrome: Browser, gateway: Gateway) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        for color in range(26):
            job = await gateway.submit("ben", graphs.plain(color))
        await until_ended(page, job)
        await page.get_by_role("link", name="All jobs").click()
        cards = page.locator(".gallery li")
        await expect(cards).to_have_count(24)
        await page.get_by_role("button", name="Show more").click()
        await expect(cards).to_have_count(26)
        await page.get_by_role("button", name="Show more").wait_for(state="hidden")


async def test_members_and_tokens_are_managed(chrome: Browser, gateway: Gateway) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        await page.get_by_role("link", name="Members").click()
        await page.get_by_label("Name").fill("cleo")
        await page.get_by_role("button", name="Add member").click()
        await page.get_by_role("heading", name="cleo").wait_for()
        await page.get_by_label("Jobs a day").fill("20")
        await page.get_by_label("Upload a day (MB)").fill("1.5")
        await page.get_by_label("Weight").fill("2")
        await page.get_by_label("Denied node classes").fill("Flux*")
        await page.get_by_role("button", name="Save").click()
        await page.get_by_text("Saved").wait_for()
        await page.get_by_label("Note").fill("the laptop")
        await page.get_by_label("Expires").select_option("In 30 days")
        await page.get_by_role("button", name="New token").click()
        token = page.locator(SECRET)
        await token.filter(has_text="ccp_").wait_for()
        headers = {"Authorization": f"Bearer {await token.inner_text()}"}
        async with gateway.session.get(gateway.url / "queue", headers=headers) as answer:
            assert answer.status == 200
        url = gateway.url / "proxy/api/members"
        async with gateway.session.get(url, headers=headers) as answer:
            (cleo,) = (await answer.json())["members"]
        assert (cleo["weight"], cleo["limits"]["jobs_per_day"]) == (2, 20)
        assert cleo["limits"]["upload_bytes_per_day"] == 1_500_000
        assert cleo["limits"]["denied_classes"] == ["Flux*"]
        await page.get_by_role("button", name="Done").click()
        await page.locator(f"{SECRET}:empty").wait_for(state="attached")
        await page.get_by_role("button", name="Disable cleo").click()
        await page.get_by_role("button", name="Disable", exact=True).click()
        await page.get_by_text("disabled", exact=True).wait_for()
        async with gateway.session.get(gateway.url / "queue", headers=headers) as answer:
            assert answer.status == 401
        row = page.locator("#tokens li").filter(has_text="the laptop")
        await row.filter(has_text="Expires").get_by_role("button").click()
        await page.get_by_role("button", name="Revoke", exact=True).click()
        await row.wait_for(state="detached")
        await page.get_by_text("No tokens").wait_for()
        await page.get_by_role("button", name="Remove member").click()
        await page.get_by_role("button", name="Remove", exact=True).click()
        await page.get_by_role("heading", name="Add a member").wait_for()
        await page.locator("#members li").filter(has_text="cleo").wait_for(state="detached")


async def test_a_member_sees_only_the_own_things(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    done = await gateway.submit("anna", graphs.plain())
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "ben") as page:
        others = await gateway.submit("anna", graphs.sampled(steps=LONG))
        own = await gateway.submit("ben", graphs.sampled(steps=LONG))
        overview = page.locator(f"#waiting a[href$='{own}']")
        for view, shown in {
            "": overview,
            "#/jobs": page.get_by_text("No jobs yet"),
            "#/accounts": overview,
            "#/members": overview,
            "#/member/ben": page.locator("#tokens li").filter(has_text="laptop"),
        }.items():
            await page.goto(f"{gateway.url / 'proxy/'}{view}")
            await shown.wait_for()
            text = await page.content()
            assert not {others[:8], done[:8], "anna"} & set(re.findall(r"[\w-]{4,8}", text))
        for link in ("Members", "Accounts"):
            await expect(page.get_by_role("link", name=link)).to_have_count(0)


async def test_a_member_makes_an_own_token(chrome: Browser, gateway: Gateway) -> None:
    async with signed_in(chrome, gateway, "ben") as page:
        await page.get_by_role("link", name="Your access").click()
        await page.get_by_text("Waiting jobs: 5000").wait_for()
        await page.get_by_label("Note").fill("phone")
        await page.get_by_role("button", name="New token").click()
        await page.locator(SECRET).filter(has_text="ccp_").wait_for()
        await page.get_by_role("button", name="Done").click()
        await page.locator("#tokens li").filter(has_text="phone").wait_for()


async def test_an_admin_enters_what_is_left_on_an_account(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        await page.get_by_role("link", name="Accounts").click()
        await page.get_by_text("Credits left: unknown").wait_for()
        await page.get_by_label("Credits left").fill("250.5")
        await page.get_by_role("button", name="Enter balance").click()
        await page.get_by_text("250.5 credits left, as entered").wait_for()
        await expect(page.get_by_label("Credits left")).to_have_value("")


async def test_usage_is_shown_by_day_and_saved_as_csv(
    chrome: Browser, gateway: Gateway, tmp_path: Path
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        await until_ended(page, await gateway.submit("ben", graphs.plain()))
        today = page.locator("#usage li").filter(has_text="ben")
        two_digits = re.compile(r"1 job · 1 output · about 0\.0*[1-9]\d? credits")
        await today.get_by_text(two_digits).wait_for()
        await page.get_by_role("link", name="Usage", exact=True).click()
        row = page.locator("#usage-days tbody tr").filter(has_text="ben")
        await row.filter(has_text=day_of(time.time())).wait_for()
        await page.locator("tfoot").get_by_text("Sum").wait_for()
        gpu = page.locator("#usage-costs tbody tr").filter(has_text="GPU")
        await gpu.filter(has_text="estimated").filter(has_text="credit").wait_for()
        assert (await Axe().run(page)).violations_count == 0
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Download CSV").click()
        saved = tmp_path / "usage.csv"
        await (await downloading.value).save_as(saved)
        head, *lines = saved.read_text(encoding="utf-8").splitlines()
        assert head.startswith("day,member,token,submitted,")
        assert ["ben", "1"] in [line.split(",")[1:4:2] for line in lines]
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Download costs").click()
        await (await downloading.value).save_as(saved)
        head, line = saved.read_text(encoding="utf-8").splitlines()
        assert head.startswith("day,member,token,account,node_class,source,credits")
        name, token, *rest = line.split(",")[1:6]
        assert (name, rest) == ("ben", ["default", "", "estimated"])
        assert token.startswith("ccp_")
        await page.get_by_label("Member").select_option("anna")
        await row.wait_for(state="detached")


async def test_a_budget_is_set_and_shown_with_what_is_spent(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        await page.get_by_text("No jobs running").wait_for()
        await expect(page.locator("#budgets")).to_be_hidden()
        await page.goto(f"{gateway.url / 'proxy/'}#/member/ben")
        await page.get_by_label("Credits a day", exact=True).fill("50")
        await page.get_by_label("Soft credits a month").fill("0.000001")
        await page.get_by_role("button", name="Save").click()
        await page.get_by_text("Saved").wait_for()
        await until_ended(page, await gateway.submit("ben", graphs.plain()))
        await page.goto(f"{gateway.url / 'proxy/'}#/")
        hard = page.locator("#budgets li").filter(has_text="of 50 credits")
        await hard.filter(has_text="Budget a day").wait_for()
        soft = page.locator("#budgets li").filter(has_text="Soft budget a month")
        await soft.filter(has_text="reached").wait_for()
        assert (await Axe().run(page)).violations_count == 0


async def test_the_audit_log_is_filtered_by_member_and_action(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        job = await gateway.submit("ben", graphs.plain())
        await until_ended(page, job)
        await page.get_by_role("link", name="Audit").click()
        rows = page.locator("#audit tbody tr")
        await rows.filter(has_text=f"job: {job}").wait_for()
        signed = rows.filter(has_text="sign in")
        await signed.filter(has_text="anna").wait_for()
        await page.get_by_label("Action").select_option("submit")
        await signed.wait_for(state="detached")
        await page.get_by_label("Member").fill("anna")
        await page.get_by_text("No entries").wait_for()
        assert (await Axe().run(page)).violations_count == 0


async def test_lines_connect_programs_with_a_new_token(chrome: Browser, gateway: Gateway) -> None:
    async with signed_in(chrome, gateway, "ben") as page:
        await page.get_by_role("link", name="Your access").click()
        line = page.get_by_label("Line for Krita AI Diffusion", exact=True)
        await line.filter(has_text=f"{gateway.url}/t/TOKEN").wait_for()
        await page.get_by_role("button", name="New token").click()
        token = await page.locator(SECRET).filter(has_text="ccp_").inner_text()
        await page.get_by_role("button", name="Done").click()
        await line.filter(has_text=f"/t/{token}").wait_for()
        url = URL(await line.inner_text()) / "queue"
        async with gateway.session.get(url) as answer:
            assert answer.status == 200
        curl = await page.get_by_label("Line for curl", exact=True).inner_text()
        process = await asyncio.create_subprocess_shell(
            f"{curl} --silent --fail", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert (process.returncode, "queue_running" in json.loads(out)) == (0, True)
        assert (await Axe().run(page)).violations_count == 0


async def test_the_link_of_a_new_token_signs_its_member_in(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(chrome, gateway, "anna") as page:
        await page.goto(f"{gateway.url / 'proxy/'}#/member/ben")
        await page.get_by_role("button", name="New token").click()
        link = await page.locator(LINK).filter(has_text="ccp_").inner_text()
        token = await page.locator(SECRET).inner_text()
        assert link == f"{gateway.url}/proxy/sign-in#{token}"
        assert (await Axe().run(page)).violations_count == 0
        await page.get_by_role("button", name="Copy the link").click()
        await page.get_by_text("Copied.").wait_for()
        await page.get_by_role("button", name="Done").click()
        await page.locator(f"{LINK}:empty").wait_for(state="attached")
        async with opened_page(chrome, viewport={"width": 375, "height": 700}) as guest:
            watch = Watch(gateway.url)
            watch.over(guest)
            await guest.goto(link)
            await guest.get_by_text("Admins of this server see the prompts").wait_for()
            assert "#" not in guest.url
            assert await guest.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert (await Axe().run(guest)).violations_count == 0
            await guest.get_by_role("button", name="Sign in").click()
            await guest.goto(link)
            await guest.get_by_text("signed in as ben").wait_for()
            assert "#" not in guest.url
            assert token not in await guest.content()
            assert watch.unexpected() == []


async def test_a_server_without_members_says_how_to_add_the_first(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy, opened_page(chrome) as page:
        await page.goto(str(proxy.url / "proxy/"))
        await page.get_by_text("No jobs yet.").wait_for()
        await page.get_by_role("link", name="Members").click()
        await page.get_by_text("comfy-cloud-proxy member add NAME --role admin").wait_for()
        assert (await Axe().run(page)).violations_count == 0


async def test_jobs_of_a_restored_backup_are_sent_on_the_page(
    chrome: Browser, simulator: Simulator, tmp_path: Path
) -> None:
    database = await open_database(tmp_path)
    sent = Payload(json.dumps(graphs.plain()).encode(), b"{}")
    await JobRepository(database).insert(StoredJob("local", "a", "queued", 0, 1, 1), sent)
    await database.write(hold_waiting)
    await database.close()
    async with running_proxy(simulator, tmp_path) as proxy, opened_page(chrome) as page:
        await page.goto(str(proxy.url / "proxy/"))
        waiting = page.locator("#waiting")
        await waiting.get_by_text("an admin must release it").wait_for()
        await waiting.get_by_text("1 job of a restored backup held").wait_for()
        assert (await Axe().run(page)).violations_count == 0
        await waiting.get_by_role("button", name="Send them").click()
        await page.get_by_role("dialog").get_by_role("button", name="Send them").click()
        await page.get_by_text("No jobs waiting").wait_for()
        await until_ended(page, "a")


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
    seen = asyncio.Event()

    async def answer_when_seen(route: Route) -> None:
        await seen.wait()
        await route.continue_()

    async with signed_in(chrome, gateway, "anna", refused=(r"502 GET /proxy/api/events",)) as page:
        await page.route("**/api/events", lambda route: route.fulfill(status=502), times=1)
        await page.route("**/api/state", answer_when_seen)
        await page.reload()
        await page.get_by_text("retrying").wait_for()
        seen.set()
        await page.get_by_text("Live", exact=True).wait_for()
        await until_ended(page, await gateway.submit("ben", graphs.plain()))


@pytest.mark.parametrize("server", [nginx, caddy], ids=lambda server: server.__name__)
async def test_it_is_live_again_after_a_restart_behind_another_server_below_a_path(
    chrome: Browser,
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    server: Callable[[Path, int], AbstractAsyncContextManager[URL]],
) -> None:
    data, refused = tmp_path / "data", (r"50[24] GET /proxy/api/.*",)
    tokens, port = await two_members(data), free_port()
    settings: dict[str, Any] = {"port": port, "base_path": "/comfy/"}
    async with server(tmp_path / "front", port) as front, AsyncExitStack() as page_open:
        async with running_proxy(simulator, data, **settings) as proxy:
            gateway = Gateway(proxy.url, tokens, session)
            before = await gateway.submit("ben", graphs.plain())
            page = await page_open.enter_async_context(
                signed_in(chrome, gateway, "anna", url=front / "comfy", refused=refused)
            )
            card = await until_ended(page, before)
            await until_drawn(card.locator("img"))
        await page.get_by_text("retrying").wait_for()
        async with page.expect_response(lambda answer: answer.status == 502):
            pass
        async with running_proxy(simulator, data, **settings):
            await page.get_by_text("Live", exact=True).wait_for()
            await until_ended(page, await gateway.submit("ben", graphs.plain(1)))
            await until_ended(page, before)
            await page_open.aclose()


async def test_who_loses_the_token_is_asked_to_sign_in_again(
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
    refused = (r"404 DELETE /proxy/api/tokens/.*",)
    async with signed_in(chrome, gateway, "anna", refused=refused) as page:
        await page.goto(f"{gateway.url / 'proxy/'}#/member/ben")
        row = page.locator("#tokens li").filter(has_text="laptop")
        await row.get_by_role("button").click()
        await page.route("**/api/tokens/*", lambda route: route.fulfill(status=404), times=1)
        await page.get_by_role("button", name="Revoke", exact=True).click()
        shown = page.get_by_role("alert").filter(has_text="The server answered 404")
        await shown.wait_for()
        async with gateway.session.post(
            gateway.url / "proxy/api/tokens",
            json={"member": "ben", "note": "drawn anew"},
            headers={"Authorization": f"Bearer {gateway.tokens['anna']}"},
        ) as answer:
            assert answer.status == 201
        await page.locator("#tokens li").filter(has_text="drawn anew").wait_for()
        await expect(shown).to_be_in_viewport(ratio=1)
        await page.get_by_role("button", name="Dismiss").click()
        await shown.wait_for(state="hidden")


async def test_what_is_wrong_with_a_new_member_is_shown_beside_the_form(
    chrome: Browser, gateway: Gateway
) -> None:
    async with signed_in(
        chrome, gateway, "anna", width=375, refused=(r"409 POST /proxy/api/members",)
    ) as page:
        await page.get_by_role("link", name="Members").click()
        await page.get_by_label("Name").fill("ben")
        await page.get_by_role("button", name="Add member").click()
        shown = page.locator("#new-member [role=alert]").filter(has_text="The member ben exists")
        await expect(shown).to_be_in_viewport(ratio=1)
        await page.get_by_label("Name").fill("cleo")
        await page.get_by_role("button", name="Add member").click()
        await page.get_by_role("heading", name="cleo").wait_for()


async def test_a_token_is_copied_on_plain_http_too(chrome: Browser, gateway: Gateway) -> None:
    url = gateway.url.with_host("gateway.test")
    async with signed_in(chrome, gateway, "anna", url=url) as page:
        assert await page.evaluate("navigator.clipboard === undefined")
        await page.goto(f"{url / 'proxy/'}#/member/ben")
        await page.get_by_role("button", name="New token").click()
        token = await page.locator(SECRET).filter(has_text="ccp_").inner_text()
        await page.get_by_role("button", name="Copy", exact=True).click()
        await page.get_by_text("Copied.").wait_for()
        await page.get_by_role("button", name="Done").click()
        note = page.get_by_label("Note")
        await note.press("Control+V")
        await expect(note).to_have_value(token)


VIEWS = {
    "overview": "#/",
    "jobs": "#/jobs",
    "none": "#/jobs?q=nothing-like-it",
    "job": "#/jobs?status=completed",
    "failure": "#/jobs?status=failed",
    "members": "#/members",
    "member": "#/member/chiara",
    "accounts": "#/accounts",
}


async def opened(page: Page, url: URL, view: str) -> None:
    """A view, with what it shows."""
    await page.goto(f"{url / 'proxy/'}{VIEWS[view]}")
    cards = page.locator(".gallery li a")
    if view in ("job", "failure"):
        await cards.first.click()
        await page.locator("#nodes tbody tr").first.wait_for()
    elif view == "members":
        await page.locator("#members li").nth(4).wait_for()
    elif view == "accounts":
        await page.locator(".now").first.wait_for()
    elif view == "none":
        await page.get_by_text("No jobs match").wait_for()
    else:
        await cards.nth(3).wait_for()
    if view == "member":
        await page.locator("#tokens li").nth(1).wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_and_nothing_is_beside_the_screen(
    chrome: Browser, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    axe = Axe()
    async with busy_gateway(tmp_path) as (url, tokens), aiohttp.ClientSession() as session:
        gateway = Gateway(url, tokens, session)
        for width in (1280, 375):
            async with signed_in(chrome, gateway, "anna", width=width, scheme=scheme) as page:
                for view in VIEWS:
                    await opened(page, url, view)
                    found = (await axe.run(page)).response["violations"]
                    shown = [
                        (violation["id"], [node["html"] for node in violation["nodes"]])
                        for violation in found
                    ]
                    assert shown == [], f"{view} at {width}"
                    assert await page.evaluate(_BEYOND_THE_EDGE) == [], f"{view} at {width}"
                    assert await page.evaluate(_BROKEN_WORDS) == [], f"{view} at {width}"
            async with signed_in(chrome, gateway, "chiara", width=width, scheme=scheme) as page:
                await opened(page, url, "member")
                assert (await axe.run(page)).violations_count == 0
                assert await page.evaluate(_BEYOND_THE_EDGE) == []


#: What lies beside a page that is as wide as the screen.
_BEYOND_THE_EDGE = """
() => [...document.querySelectorAll("main *, header *, footer *")]
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


async def test_a_running_job_that_cannot_be_followed_says_why(
    chrome: Browser, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.switches.pace = 0.5
    async with signed_in(chrome, gateway, "anna") as page:
        job = await gateway.submit("ben", graphs.sampled(steps=LONG))
        running = page.locator("#running li").filter(has_text=job[:8])
        await running.filter(has_text="KSampler").wait_for()
        simulator.account.key = "comfyui-another-key-0123456789"
        simulator.drop_sockets()
        await running.get_by_text("the account's key does not work").wait_for()
