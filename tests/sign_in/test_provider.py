"""Members sign in at a real provider of OpenID Connect."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from sign_in.conftest import Gateway, browser, running_gateway
from stack import TIMEOUT
from yarl import URL

from proxy.admin.provider_sign_in import ATTEMPT_COOKIE
from proxy.api.credentials import COOKIE
from proxy.api.keys import MEMBERS
from proxy.members.accounting import MAX_SIGN_IN_STEPS
from proxy.simulator import Simulator


@pytest.fixture
async def gateway(
    simulator: Simulator, tmp_path: Path, oidc_provider: Path
) -> AsyncIterator[Gateway]:
    async with running_gateway(
        simulator, tmp_path, oidc_provider, admin_groups=("comfy-admins",)
    ) as running:
        yield running


async def sign_in(
    session: aiohttp.ClientSession, gateway: Gateway, who: str, target: str = "/queue"
) -> tuple[int, URL, str]:
    """Sign in as somebody; the status, the address and the text of where that leads."""
    async with session.get(gateway.provider / "who" / who):
        pass
    async with session.get(gateway.sign_in.with_query(next=target)) as answer:
        return answer.status, answer.url, await answer.text()


async def user(session: aiohttp.ClientSession, gateway: Gateway) -> str | None:
    async with session.get(gateway.url / "api/user") as answer:
        return (await answer.json()).get("id")


async def test_who_signs_in_is_a_member_and_gets_where_they_wanted(gateway: Gateway) -> None:
    async with browser() as session:
        status, url, _ = await sign_in(session, gateway, "ann", "/queue?x=1")
        assert (status, url) == (200, gateway.url / "queue" % {"x": "1"})
        assert await user(session, gateway) == "ann"
    (member,) = gateway.proxy.services[MEMBERS].members()
    issuer = str(gateway.provider).rstrip("/")
    assert (member.name, member.role) == ("ann", "user")
    assert member.identities == (f"{issuer} ann",)


async def test_the_same_person_is_the_same_member(gateway: Gateway) -> None:
    for _ in range(2):
        async with browser() as session:
            await sign_in(session, gateway, "ann")
            assert await user(session, gateway) == "ann"
    assert len(gateway.proxy.services[MEMBERS].members()) == 1
    assert len(gateway.proxy.services[MEMBERS].tokens()) == 1


async def test_a_group_of_the_provider_makes_an_admin(gateway: Gateway) -> None:
    async with browser() as session:
        await sign_in(session, gateway, "admin-bob")
        async with session.get(gateway.url / "proxy/api/audit") as answer:
            assert answer.status == 200
            entries = (await answer.json())["entries"]
    assert [entry["action"] for entry in entries] == ["sign_in", "member_provisioned"]
    assert entries[0]["provider"] == "company"


async def test_the_sign_in_page_offers_the_provider_and_keeps_the_target(gateway: Gateway) -> None:
    async with (
        browser() as session,
        session.get(gateway.url / "queue" % {"x": "1"}, headers={"Accept": "text/html"}) as answer,
    ):
        text = await answer.text()
    assert "Sign in with company" in text
    assert "/proxy/sign-in/company?next=/queue?x%3D1" in text


async def test_the_cookie_of_the_attempt_is_gone_after_it(gateway: Gateway) -> None:
    async with browser() as session:
        await sign_in(session, gateway, "ann")
        names = {cookie.key for cookie in session.cookie_jar}
    assert COOKIE in names
    assert ATTEMPT_COOKIE not in names


async def test_who_is_refused_there_stays_out(gateway: Gateway) -> None:
    async with browser() as session, session.get(gateway.sign_in) as answer:
        assert answer.status == 403
        assert "company did not sign you in" in await answer.text()
    assert gateway.proxy.services[MEMBERS].members() == []


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example"])
async def test_it_leads_nowhere_else(gateway: Gateway, target: str) -> None:
    async with browser() as session:
        _, url, _ = await sign_in(session, gateway, "ann", target)
    assert url.origin() == gateway.url.origin()


async def test_a_member_who_is_disabled_is_out(gateway: Gateway) -> None:
    async with browser() as session:
        await sign_in(session, gateway, "ann")
        async with session.ws_connect(gateway.url / "ws") as socket:
            await socket.receive(timeout=TIMEOUT)
            await gateway.proxy.services[MEMBERS].change("ann", disabled=True)
            async with asyncio.timeout(TIMEOUT):
                while (await socket.receive()).type != aiohttp.WSMsgType.CLOSE:
                    pass
        assert await user(session, gateway) is None
        status, _, text = await sign_in(session, gateway, "ann")
        assert (status, "disabled" in text) == (403, True)


async def test_signing_out_leads_to_the_way_out_of_the_provider(gateway: Gateway) -> None:
    async with browser() as session:
        await sign_in(session, gateway, "ann")
        async with session.post(gateway.url / "proxy/sign-out") as answer:
            text = await answer.text()
        assert "still signed in at company" in text
        assert f"{gateway.provider}/session/end?client_id=comfy" in text
        assert await user(session, gateway) is None


@pytest.mark.parametrize(
    ("more", "who", "enters"),
    [
        ({"domains": ("Example.com",)}, "ann", True),
        ({"domains": ("example.net",)}, "ann", False),
        ({"domains": ("example.com",)}, "unverified-ann", False),
        ({"domains": ("example.com",)}, "unsaid-ann", False),
        ({"domains": ("example.com",), "unverified_email": True}, "unsaid-ann", True),
        ({"domains": ("example.com",), "unverified_email": True}, "unverified-ann", False),
        ({"groups": ("staff", "x")}, "ann", True),
        ({"groups": ("x",)}, "ann", False),
    ],
)
async def test_domains_and_groups_decide_who_enters(
    simulator: Simulator, tmp_path: Path, oidc_provider: Path, more: dict, who: str, enters: bool
) -> None:
    async with (
        running_gateway(simulator, tmp_path, oidc_provider, **more) as gateway,
        browser() as session,
    ):
        status, _, _ = await sign_in(session, gateway, who)
        assert status == (200 if enters else 403)
        assert (await user(session, gateway) is not None) is enters


# --- attacks ------------------------------------------------------------------------------


async def callback_of(session: aiohttp.ClientSession, gateway: Gateway, who: str) -> URL:
    """The address with which the provider sends a browser back, which is not followed."""
    async with session.get(gateway.provider / "who" / who):
        pass
    url = gateway.sign_in
    while True:
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status in (302, 303), await answer.text()
            url = answer.url.join(URL(answer.headers["Location"], encoded=True))
        if url.path.endswith("/callback"):
            return url


async def test_an_answer_for_another_browser_is_refused(gateway: Gateway) -> None:
    """Whoever sends somebody the address of an own sign-in must not sign them in as oneself."""
    async with browser() as attacker, browser() as victim:
        url = await callback_of(attacker, gateway, "mallory")
        async with victim.get(url) as answer:
            assert answer.status == 403
        await callback_of(victim, gateway, "ann")  # an attempt of their own does not help
        async with victim.get(url) as answer:
            assert answer.status == 403
        assert await user(victim, gateway) is None


async def test_an_answer_counts_once(gateway: Gateway) -> None:
    async with browser() as session:
        url = await callback_of(session, gateway, "ann")
        (attempt,) = [cookie for cookie in session.cookie_jar if cookie.key == ATTEMPT_COOKIE]
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status == 303
    async with browser() as other:
        headers = {"Cookie": f"{ATTEMPT_COOKIE}={attempt.value}"}
        async with other.get(url, headers=headers) as answer:
            assert answer.status == 403
            assert "was already used" in await answer.text()


async def test_the_provider_is_asked_once_for_a_cookie_and_little_for_an_address(
    gateway: Gateway,
) -> None:
    async with browser() as session:
        url = await callback_of(session, gateway, "ann")
        (attempt,) = [cookie for cookie in session.cookie_jar if cookie.key == ATTEMPT_COOKIE]
    headers = {"Cookie": f"{ATTEMPT_COOKIE}={attempt.value}"}

    async def reason(code: str) -> str:
        async with other.get(url.update_query(code=code), headers=headers) as answer:
            found = re.search("did not sign you in|was already used|Too many", await answer.text())
            return "" if found is None else found[0]

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as other:
        sent = [reason(f"code-{number}") for number in range(2 * MAX_SIGN_IN_STEPS)]
        reasons = Counter(await asyncio.gather(*sent))
    assert set(reasons) == {"did not sign you in", "was already used", "Too many"}
    assert reasons["did not sign you in"] == 1
    assert reasons["was already used"] < MAX_SIGN_IN_STEPS


async def test_a_changed_state_and_a_forged_attempt_are_refused(gateway: Gateway) -> None:
    async with browser() as session:
        url = await callback_of(session, gateway, "ann")
        async with session.get(url.update_query(state="another")) as answer:
            assert answer.status == 403
        (attempt,) = [cookie for cookie in session.cookie_jar if cookie.key == ATTEMPT_COOKIE]
        for forged in (f"{attempt.value[:-2]}xx", "x.y", attempt.value.partition(".")[0]):
            headers = {"Cookie": f"{ATTEMPT_COOKIE}={forged}"}
            async with (
                aiohttp.ClientSession() as other,
                other.get(url, headers=headers) as answer,
            ):
                assert answer.status == 403


async def test_an_answer_that_names_another_issuer_is_refused(gateway: Gateway) -> None:
    async with browser() as session:
        url = await callback_of(session, gateway, "ann")
        assert url.query["iss"] == str(gateway.provider).rstrip("/")
        async with session.get(url.update_query(iss="https://evil.example")) as answer:
            assert answer.status == 403
    async with browser() as session:
        url = await callback_of(session, gateway, "ann")
        async with session.get(url.without_query_params("iss")) as answer:
            assert answer.status == 403


async def test_a_token_in_the_path_and_a_sign_in_do_not_meet(gateway: Gateway) -> None:
    async with (
        browser() as session,
        session.get(gateway.url / "t/ccp_x/proxy/sign-in/company") as answer,
    ):
        assert answer.status == 400


async def test_an_unknown_provider_is_not_found(gateway: Gateway) -> None:
    async with browser() as session:
        for path in ("proxy/sign-in/nobody", "proxy/sign-in/nobody/callback"):
            async with session.get(gateway.url / path) as answer:
                assert answer.status == 404


async def test_no_secret_of_a_sign_in_is_logged(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    async with browser() as session:
        url = await callback_of(session, gateway, "ann")
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status == 303
            cookie = answer.cookies[COOKIE].value
        async with session.get(url) as answer:
            assert answer.status == 403
        async with session.get(gateway.url / "internal/logs") as answer:
            lines = await answer.text()
    captured = capsys.readouterr()
    text = captured.out + captured.err + lines
    assert "member_signed_in" in text
    for secret in ("a secret of the client", url.query["code"], url.query["state"], cookie):
        assert secret not in text
