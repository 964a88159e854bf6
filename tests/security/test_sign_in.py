"""The sign-in of browsers: its cookie, and what pages of other sites can do with it: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from stack import TIMEOUT
from team import Team, basic, running_team
from yarl import URL

from proxy.api.credentials import COOKIE
from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data", trusted_proxies="127.0.0.1") as running:
        yield running


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses that are no names
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


async def _sign_in(browser: aiohttp.ClientSession, url: URL, token: str, **fields: str) -> str:
    """Sign in; where it leads."""
    form = {"token": token, **fields}
    async with browser.post(url / "proxy/sign-in", data=form, allow_redirects=False) as answer:
        assert answer.status == 303
        return answer.headers["Location"]


async def test_a_browser_signs_in_and_out(team: Team, browser: aiohttp.ClientSession) -> None:
    assert await _sign_in(browser, team.url, f" {team.bob} ") == "/"
    async with browser.get(team.url / "queue") as answer:
        assert answer.status == 200
    async with browser.ws_connect(team.url / "ws") as socket:
        await socket.receive(timeout=TIMEOUT)
        async with browser.get(team.url / "proxy/sign-in") as page:
            assert "signed in as <strong>bob</strong>" in await page.text()
        async with browser.post(team.url / "proxy/sign-out") as answer:
            assert answer.url.path == "/proxy/sign-in"
        assert (await socket.receive(timeout=TIMEOUT)).data == 1008
    async with browser.get(team.url / "queue") as answer:
        assert answer.status == 401


async def test_the_session_ends_for_good(team: Team, browser: aiohttp.ClientSession) -> None:
    await _sign_in(browser, team.url, team.bob)
    (cookie,) = list(browser.cookie_jar)
    async with browser.post(team.url / "proxy/sign-out"):
        pass
    header = {"Cookie": f"{COOKIE}={cookie.value}"}
    async with browser.get(team.url / "queue", headers=header) as answer:
        assert answer.status == 401
    await _sign_in(browser, team.url, team.bob)
    await team.members.revoke(team.bob)
    async with browser.get(team.url / "queue") as answer:
        assert answer.status == 401


async def test_the_cookie_is_a_session_that_scripts_cannot_read(
    team: Team, browser: aiohttp.ClientSession
) -> None:
    form = {"token": team.bob}
    for scheme in ("http", "https"):
        async with browser.post(
            team.url / "proxy/sign-in",
            data=form,
            headers={"X-Forwarded-Proto": scheme},
            allow_redirects=False,
        ) as answer:
            cookie = answer.cookies[COOKIE]
            assert cookie["httponly"]
            assert cookie["samesite"] == "Lax"
            assert cookie["path"] == "/"
            assert bool(cookie["secure"]) == (scheme == "https")
            assert team.bob not in cookie.value
            assert answer.headers["Cache-Control"] == "no-store"


async def test_a_wrong_token_is_an_error_on_the_page(
    team: Team, browser: aiohttp.ClientSession
) -> None:
    form = {"token": "ccp_<script>", "next": '"><script>'}
    async with browser.post(team.url / "proxy/sign-in", data=form) as answer:
        page = await answer.text()
        assert answer.status == 401
        assert "is invalid" in page
        assert "<script>" not in page
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert not answer.cookies


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb",
     "", "\t//evil.example", "/é"],
)  # fmt: skip
async def test_it_leads_to_no_other_site(
    team: Team, browser: aiohttp.ClientSession, target: str
) -> None:
    assert await _sign_in(browser, team.url, team.bob, next=target) == "/"


async def test_it_leads_to_where_one_wanted_to_go(
    team: Team, browser: aiohttp.ClientSession
) -> None:
    assert await _sign_in(browser, team.url, team.bob, next="/view?a=b%20c") == "/view?a=b%20c"


FOREIGN = (
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
)


@pytest.mark.parametrize("headers", FOREIGN)
async def test_pages_of_other_sites_cannot_use_a_session(
    team: Team, browser: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    await _sign_in(browser, team.url, team.ann)
    for path in ("prompt", "queue", "proxy/sign-out", "proxy/sign-in", "proxy/api/tokens"):
        async with browser.post(team.url / path, json={"clear": True}, headers=headers) as answer:
            assert answer.status == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await browser.ws_connect(team.url / "ws", headers=headers)
    assert refusal.value.status == 403
    async with browser.get(team.url / "queue") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("headers", FOREIGN)
async def test_nor_a_password_that_the_browser_remembers(
    team: Team, browser: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    both = {**basic(team.bob), **headers}
    async with browser.post(team.url / "queue", json={"clear": True}, headers=both) as answer:
        assert answer.status == 403


async def test_the_servers_own_page_can(team: Team, browser: aiohttp.ClientSession) -> None:
    await _sign_in(browser, team.url, team.bob)
    own = str(team.url.origin())
    for headers in (
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://comfy.example", "X-Forwarded-Host": "comfy.example"},
        {},
    ):
        async with browser.post(team.url / "queue", json={}, headers=headers) as answer:
            assert answer.status == 200
        async with browser.ws_connect(team.url / "ws", headers=headers) as socket:
            await socket.receive(timeout=TIMEOUT)


async def test_a_large_or_odd_form_is_refused(team: Team, browser: aiohttp.ClientSession) -> None:
    url = team.url / "proxy/sign-in"
    async with browser.post(url, data={"token": "x" * 20_000}) as answer:
        assert answer.status == 413
    async with browser.post(url, json={"token": team.bob}) as answer:
        assert answer.status == 415


@pytest.mark.parametrize("where", ["path", "query", "header"])
async def test_a_request_with_a_token_of_its_own_uses_no_session(
    team: Team, browser: aiohttp.ClientSession, where: str
) -> None:
    await _sign_in(browser, team.url, team.ann)
    base, query, headers = team.url, {}, {}
    if where == "path":
        base = team.url / "t" / team.bob
    elif where == "query":
        query = {"token": team.bob}
    else:
        headers = {"X-API-Key": team.bob}
    page = (base / "proxy/sign-in").with_query(query)
    async with browser.get(page, headers=headers) as answer:
        assert "signed in as" not in await answer.text()
    leave = (base / "proxy/sign-out").with_query(query)
    async with browser.post(leave, headers=headers, allow_redirects=False):
        pass
    async with browser.get(team.url / "proxy/api/members") as answer:
        assert answer.status == 200  # Ann's session, an admin's, has not ended


@pytest.mark.parametrize("where", ["path", "query", "header"])
async def test_a_request_with_a_token_of_its_own_makes_no_session(
    team: Team, browser: aiohttp.ClientSession, where: str
) -> None:
    url, headers = team.url / "proxy/sign-in", {}
    if where == "path":
        url = team.url / "t" / team.bob / "proxy/sign-in"
    elif where == "query":
        url = url.with_query(token=team.bob)
    else:
        headers = {"X-API-Key": team.bob}
    form = {"token": team.bob}
    async with browser.post(url, data=form, headers=headers, allow_redirects=False) as answer:
        assert (answer.status, dict(answer.cookies)) == (400, {})
        assert (await answer.json())["error"]["type"] == "sign_in_with_token"
    async with browser.get(team.url / "queue") as answer:
        assert answer.status == 401


async def test_a_browser_names_the_page_that_its_form_comes_from(
    team: Team, browser: aiohttp.ClientSession
) -> None:
    """With `no-referrer` it would send `Origin: null`, and over plain HTTP nothing else."""
    async with browser.get(team.url / "proxy/sign-in") as answer:
        assert answer.headers["Referrer-Policy"] == "same-origin"
