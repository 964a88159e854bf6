"""Invitations: one code becomes one token, and opens nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stopped_clock import stopped
from team import Team, basic, bearer, running_team
from yarl import URL

from proxy import clock
from proxy.api.credentials import COOKIE
from proxy.members import invitations as module
from proxy.members.accounting import MAX_FAILURES
from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses that are no names
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


async def api(
    session: aiohttp.ClientSession, team: Team, method: str, path: str, **more: Any
) -> tuple[int, Any]:
    """What the API of invitations answers an admin, or the member of another `token`."""
    headers = bearer(more.pop("token", team.ann))
    url = team.url / "proxy/api" / path
    async with session.request(method, url, headers=headers, **more) as answer:
        return answer.status, await answer.json() if answer.status != 204 else None


async def invited(session: aiohttp.ClientSession, team: Team, **more: Any) -> str:
    """A new invitation for Bob."""
    status, made = await api(session, team, "POST", "invitations", json={"member": "bob", **more})
    assert status == 201, made
    assert made["path"] == f"/proxy/invitation#{made['code']}"
    return str(made["code"])


async def accept(browser: aiohttp.ClientSession, url: URL, code: str) -> tuple[int, str]:
    """What the page answers to a code."""
    async with browser.post(url / "proxy/invitation", data={"code": code}) as answer:
        return answer.status, await answer.text()


def token_in(page: str) -> str:
    (token,) = re.findall(r"ccp_[a-z2-7]{40}", page)
    return str(token)


async def works(session: aiohttp.ClientSession, team: Team, token: str) -> bool:
    async with session.get(team.url / "queue", headers=bearer(token)) as answer:
        return answer.status == 200


async def test_an_invitation_signs_in_and_shows_a_token_once(
    team: Team, session: aiohttp.ClientSession, browser: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    status, page = await accept(browser, team.url, code)
    assert status == 200
    assert "signed in as <strong>bob</strong>" in page
    assert await works(session, team, token_in(page))
    async with browser.get(team.url / "queue") as answer:
        assert answer.status == 200
    (cookie,) = list(browser.cookie_jar)
    assert (cookie.key, cookie["httponly"], cookie["samesite"]) == (COOKIE, True, "Lax")
    async with browser.get(team.url / "proxy/invitation") as answer:
        assert "ccp_" not in await answer.text()
    _, audit = await api(session, team, "GET", "audit")
    actions = {entry["action"]: entry for entry in audit["entries"]}
    assert actions["invitation_created"]["name"] == "bob"
    assert actions["invitation_accepted"]["member"] == "bob"
    assert code not in str(audit)


async def test_looking_at_an_invitation_says_whose_it_is_and_leaves_it_open(
    team: Team, session: aiohttp.ClientSession, browser: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    data = {"code": code, "look": "1"}
    for _ in range(2):
        async with session.post(team.url / "proxy/invitation", data=data) as answer:
            assert (answer.status, COOKIE in answer.cookies) == (200, False)
            page = await answer.text()
    assert f"<strong>ann</strong> invites you to <strong>{team.url.authority}</strong>" in page
    assert "Admins of this server see the prompts, workflows and pictures of all members" in page
    assert (await accept(browser, team.url, code))[0] == 200
    async with session.post(team.url / "proxy/invitation", data=data) as answer:
        assert answer.status == 401


async def test_a_used_invitation_is_refused(
    team: Team, session: aiohttp.ClientSession, browser: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    await accept(browser, team.url, code)
    before = len(team.members.tokens("bob"))
    async with aiohttp.ClientSession() as other:
        status, page = await accept(other, team.url, code)
    assert status == 401
    assert "was used" in page
    assert "ccp_" not in page
    assert len(team.members.tokens("bob")) == before


async def test_of_many_at_once_one_gets_the_token(
    team: Team, session: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    answers = await asyncio.gather(*(accept(session, team.url, code) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] + [401] * 7
    assert len(team.members.tokens("bob")) == 2


async def test_an_invitation_expires(
    team: Team,
    session: aiohttp.ClientSession,
    browser: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = await invited(session, team, expires="60s")
    stopped(monkeypatch, clock.time() + 61)
    status, page = await accept(browser, team.url, code)
    assert (status, "ccp_" in page) == (401, False)
    assert (await api(session, team, "GET", "invitations"))[1] == {"invitations": []}


@pytest.mark.parametrize("agent", ["Slackbot-LinkExpanding 1.0", "WhatsApp/2", "Mozilla/5.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_program_that_looks_at_the_link_does_not_use_it(
    team: Team,
    session: aiohttp.ClientSession,
    browser: aiohttp.ClientSession,
    agent: str,
    method: str,
) -> None:
    code = await invited(session, team)
    for query in ({}, {"code": code}, {"token": ""}):
        url = (team.url / "proxy/invitation").with_query(query)
        async with session.request(method, url, headers={"User-Agent": agent}) as answer:
            assert answer.status in (200, 204, 405)
            assert COOKIE not in answer.cookies
            assert code not in await answer.text()
    assert (await accept(browser, team.url, code))[0] == 200


async def test_a_code_is_no_token_and_opens_no_other_path(
    team: Team, session: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    for path, headers in (
        ("queue", bearer(code)),
        ("queue", {"X-API-Key": code}),
        ("queue", basic(code)),
        ("queue", {"Cookie": f"{COOKIE}={code}"}),
        (f"t/{code}/queue", {}),
        (f"queue?token={code}", {}),
        (f"view?ticket={code}", {}),
        ("proxy/api/state", bearer(code)),
        ("proxy/api/invitations", bearer(code)),
    ):
        url = URL(f"{team.url}/{path}")
        async with session.get(url, headers=headers) as answer:
            assert answer.status in (401, 429), path
    data = {"token": code}
    async with session.post(team.url / "proxy/sign-in", data=data) as answer:
        assert answer.status in (401, 429)
    assert len(team.members.tokens("bob")) == 1


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("proxy/invitation", {"Origin": "https://evil.example"}),
        ("proxy/invitation", {"Sec-Fetch-Site": "cross-site"}),
    ],
)
async def test_another_site_cannot_make_a_browser_accept(
    team: Team, session: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    code = await invited(session, team)
    async with session.post(team.url / path, data={"code": code}, headers=headers) as answer:
        assert (answer.status, COOKIE in answer.cookies) == (403, False)
    assert (await accept(session, team.url, code))[0] == 200


async def test_a_page_of_a_member_cannot_sign_a_browser_in(
    team: Team, session: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    url = team.url / "t" / team.bob / "proxy/invitation"
    async with session.post(url, data={"code": code}) as answer:
        assert (answer.status, COOKIE in answer.cookies) == (400, False)
    assert (await accept(session, team.url, code))[0] == 200


async def test_codes_cannot_be_guessed_at_will(team: Team, session: aiohttp.ClientSession) -> None:
    wrong = "cci_" + 40 * "a"
    seen = [(await accept(session, team.url, wrong))[0] for _ in range(MAX_FAILURES + 2)]
    assert seen == [401] * MAX_FAILURES + [429] * 2
    code = await invited(session, team)
    assert (await accept(session, team.url, code))[0] == 200  # nobody is locked out by others


@pytest.mark.parametrize("body", [b"", b"code", b"code=%00", b"code=" + 20_000 * b"a", b"\xff"])
async def test_odd_forms_are_refused(
    team: Team, session: aiohttp.ClientSession, body: bytes
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    url = team.url / "proxy/invitation"
    async with session.post(url, data=body, headers=headers) as answer:
        assert answer.status in (400, 401, 413)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_only_admins_see_and_make_invitations(
    team: Team, session: aiohttp.ClientSession, method: str
) -> None:
    code = await invited(session, team)
    path = f"invitations/{code[4:12]}" if method == "DELETE" else "invitations"
    more = {"json": {"member": "bob"}} if method == "POST" else {}
    status, answer = await api(session, team, method, path, token=team.bob, **more)
    assert (status, answer["error"]["type"]) == (403, "admins_only")
    assert code not in str((await api(session, team, "GET", "invitations"))[1])


async def test_an_invitation_that_was_revoked_is_refused(
    team: Team, session: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    assert (await api(session, team, "DELETE", f"invitations/{code[4:12]}"))[0] == 204
    assert (await api(session, team, "DELETE", f"invitations/{code[4:12]}"))[0] == 404
    assert (await accept(session, team.url, code))[0] == 401


async def test_an_invitation_ends_with_its_member_and_waits_while_it_is_disabled(
    team: Team, session: aiohttp.ClientSession
) -> None:
    code = await invited(session, team)
    await team.members.change("bob", disabled=True)
    assert (await accept(session, team.url, code))[0] == 401
    await team.members.change("bob", disabled=False)
    bob = team.members.get("bob")
    await team.members.remove("bob")
    assert (await accept(session, team.url, code))[0] == 401
    await team.members.add(bob, restore=True)
    assert (await accept(session, team.url, code))[0] == 401
    assert team.members.tokens("bob") == []


async def test_a_member_has_few_open_invitations(
    team: Team, session: aiohttp.ClientSession
) -> None:
    for _ in range(module.MAX_OPEN):
        await invited(session, team)
    for body in (
        {"member": "bob"},
        {"member": "ann", "expires": "31d"},
        {"member": "ann", "expires": "soon"},
        {"member": "ann", "more": 1},
        {},
    ):
        status, answer = await api(session, team, "POST", "invitations", json=body)
        assert status == 400
        assert answer["error"]["message"]
    assert (await api(session, team, "POST", "invitations", json={"member": "x"}))[0] == 404


@pytest.mark.sqlite  # whose file is read
async def test_the_database_and_the_log_hold_no_code(
    team: Team, session: aiohttp.ClientSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await invited(session, team)
    _, page = await accept(session, team.url, code[:-1] + "2")
    secret = code[12:]
    assert secret not in page
    url = (team.url / "proxy/api/state").with_query(token=code)
    async with session.get(url):
        pass
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*.db*"))  # noqa: ASYNC240
    assert b"bob" in stored
    assert secret.encode() not in stored
    assert secret not in capsys.readouterr().out
