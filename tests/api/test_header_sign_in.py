"""A reverse proxy signs people in, with a header that counts from trusted proxies only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stack import TIMEOUT, Proxy, running_proxy
from strangers import picture
from team import bearer, running_team

from proxy.api.keys import ACCOUNTING, MEMBERS
from proxy.members.member import Limits, Member
from proxy.simulator import Simulator

#: Starts a proxy that trusts this machine, with more settings.
Running = Any

PNG = picture((1, 2, 3))

HEADER, GROUPS = "Remote-User", "Remote-Groups"


@pytest.fixture
def running(simulator: Simulator, tmp_path: Path) -> Running:
    return partial(
        running_proxy,
        simulator,
        tmp_path / "data",
        trusted_proxies="127.0.0.1",
        sign_in_header=HEADER,
    )


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def who(session: aiohttp.ClientSession, proxy: Proxy, **headers: str) -> tuple[int, Any]:
    """Who a request with these headers is; `_` stands for `-`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.get(proxy.url / "api/user", headers=sent) as answer:
        return answer.status, await answer.json()


async def test_whoever_comes_first_becomes_a_member(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        status, answer = await who(session, proxy, Remote_User="Ann.Lee@example.com")
        assert (status, answer["id"]) == (200, "ann-lee")
        assert (await who(session, proxy, Remote_User="Ann.Lee@example.com"))[1] == answer
        (member,) = proxy.services[MEMBERS].members()
        assert (member.role, member.identities) == ("user", ("header Ann.Lee@example.com",))
        (token,) = proxy.services[MEMBERS].tokens()
        assert (token.member, token.note, token.digest) == ("ann-lee", "header", "")


async def test_of_several_requests_at_once_the_first_makes_the_member(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        answers = await asyncio.gather(*(who(session, proxy, Remote_User="ann") for _ in range(6)))
        assert [(status, answer["id"]) for status, answer in answers] == [(200, "ann")] * 6
        entries = await proxy.services[ACCOUNTING].audit.page(limit=10)
        assert [entry["action"] for entry in entries] == ["member_provisioned"]
        assert len(proxy.services[MEMBERS].tokens()) == 1


async def test_nobody_becomes_the_member_who_has_the_name_here(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        await proxy.services[MEMBERS].add(Member("ann", role="admin"))
        names = [
            (await who(session, proxy, Remote_User=user))[1]["id"]
            for user in ("ann", "ANN", "ann@example.com", "ann@example.net")
        ]
        assert names == ["ann-2", "ann-3", "ann-4", "ann-5"]
        assert {proxy.services[MEMBERS].get(name).role for name in names} == {"user"}


async def test_whoever_is_called_local_gets_nothing_from_before_there_were_members(
    simulator: Simulator, running: Running, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        form = aiohttp.FormData()
        form.add_field("image", PNG, filename="earlier.png")
        async with session.post(proxy.url / "upload/image", data=form) as answer:
            name = (await answer.json())["name"]
    async with running() as proxy:
        for user in ("local", "LOCAL", "local@example.com"):
            status, answer = await who(session, proxy, Remote_User=user)
            assert (status, answer["id"].partition("-")[0]) == (200, "local")
            assert answer["id"] != "local"
            view = (proxy.url / "view").with_query(filename=name, type="input")
            async with session.get(view, headers={HEADER: user}) as answer:
                assert answer.status == 404


async def test_whoever_has_the_name_of_a_removed_member_gets_another(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        assert (await who(session, proxy, Remote_User="ann"))[1]["id"] == "ann"
        await proxy.services[MEMBERS].remove("ann")
        assert (await who(session, proxy, Remote_User="ann"))[1]["id"] == "ann-2"


async def test_nobody_gets_the_name_of_a_folder_that_is_there(
    running: Running, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "input/Sketches").mkdir(parents=True)
    async with running(input_directory=tmp_path / "input") as proxy:
        assert (await who(session, proxy, Remote_User="sketches"))[1]["id"] == "sketches-2"


async def test_an_identity_that_moves_takes_its_connections_along(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        async with session.ws_connect(proxy.url / "ws", headers={HEADER: "ann"}) as socket:
            await socket.receive(timeout=TIMEOUT)
            await proxy.services[MEMBERS].change("ann", identities=())
            while (message := await socket.receive(timeout=TIMEOUT)).type != (
                aiohttp.WSMsgType.CLOSE
            ):
                pass
            assert message.data == 1008
        assert (await who(session, proxy, Remote_User="ann"))[1]["id"] == "ann-2"


async def test_an_admin_gives_a_member_an_identity(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        await proxy.services[MEMBERS].add(Member("ann", role="admin"))
        await proxy.services[MEMBERS].change("ann", identities=("header ann@example.com",))
        assert (await who(session, proxy, Remote_User="ann@example.com"))[1]["id"] == "ann"


async def test_the_header_counts_from_trusted_proxies_only(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    settings = {"trusted_proxies": "192.0.2.1", "sign_in_header": HEADER}
    async with running_proxy(simulator, tmp_path / "data", **settings) as proxy:
        status, answer = await who(session, proxy, Remote_User="ann")
        assert (status, answer["error"]["type"]) == (401, "token_missing")
        assert proxy.services[MEMBERS].members() == []


async def test_without_the_header_a_token_is_needed_though_there_is_no_member(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        for headers in ({}, {HEADER: ""}, {HEADER: "  "}):
            async with session.get(proxy.url / "queue", headers=headers) as answer:
                assert answer.status == 401


async def test_a_token_counts_before_the_header(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    settings = {"trusted_proxies": "127.0.0.1", "sign_in_header": HEADER}
    async with running_team(simulator, tmp_path / "data", **settings) as team:
        headers = {HEADER: "carol", **bearer(team.bob)}
        async with session.get(team.url / "api/user", headers=headers) as answer:
            assert (await answer.json())["id"] == "bob"
        async with session.get(team.url / f"t/{team.bob}/api/user", headers=headers) as answer:
            assert (await answer.json())["id"] == "bob"
        wrong = {HEADER: "carol", **bearer("ccp_wrong")}
        async with session.get(team.url / "api/user", headers=wrong) as answer:
            assert answer.status == 401
        assert [member.name for member in team.members.members()] == ["ann", "bob"]


async def test_the_header_counts_before_a_session(simulator: Simulator, tmp_path: Path) -> None:
    settings = {"trusted_proxies": "127.0.0.1", "sign_in_header": HEADER}
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        running_team(simulator, tmp_path / "data", **settings) as team,
        aiohttp.ClientSession(cookie_jar=jar) as browser,
    ):
        async with browser.post(team.url / "proxy/sign-in", data={"token": team.bob}):
            pass
        async with browser.get(team.url / "api/user", headers={HEADER: "carol"}) as answer:
            assert (await answer.json())["id"] == "carol"


async def test_pages_of_other_sites_cannot_use_it(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        headers = {HEADER: "ann", "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        async with session.post(proxy.url / "interrupt", headers=headers) as answer:
            assert answer.status == 403
        own = {HEADER: "ann", "Sec-Fetch-Site": "same-origin"}
        async with session.post(proxy.url / "interrupt", headers=own) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("user", ["a" * 256, "ann\u200bbob"])
async def test_a_name_that_nobody_can_have_is_refused(
    running: Running, session: aiohttp.ClientSession, user: str
) -> None:
    async with running() as proxy:
        status, answer = await who(session, proxy, Remote_User=user)
        assert (status, answer["error"]["type"]) == (400, "invalid_user")
        assert proxy.services[MEMBERS].members() == []


async def test_two_headers_are_refused(running: Running) -> None:
    async with running() as proxy, aiohttp.ClientSession() as session:
        headers = [(HEADER, "ann"), (HEADER, "bob")]
        async with session.get(proxy.url / "queue", headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "repeated_header"


async def test_two_headers_with_groups_are_refused(running: Running) -> None:
    async with (
        running(sign_in_groups_header=GROUPS, sign_in_admin_groups="ops") as proxy,
        aiohttp.ClientSession() as session,
    ):
        headers = [(HEADER, "ann"), (GROUPS, "users"), (GROUPS, "ops")]
        async with session.get(proxy.url / "queue", headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "repeated_header"
        assert proxy.services[MEMBERS].members() == []


async def test_groups_decide_who_is_an_admin(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running(sign_in_groups_header=GROUPS, sign_in_admin_groups="ops, root") as proxy:

        async def role(**headers: str) -> str:
            await who(session, proxy, Remote_User="ann", **headers)
            return proxy.services[MEMBERS].get("ann").role

        assert await role(Remote_Groups="users,ops") == "admin"
        assert await role(Remote_Groups="users|root") == "admin"
        assert await role(Remote_Groups="operators") == "user"
        assert await role(Remote_Groups="root") == "admin"
        assert await role() == "user"


async def test_without_admin_groups_an_admin_stays_one(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running(sign_in_groups_header=GROUPS) as proxy:
        await who(session, proxy, Remote_User="ann", Remote_Groups="users")
        await proxy.services[MEMBERS].change("ann", role="admin")
        await who(session, proxy, Remote_User="ann", Remote_Groups="users")
        assert proxy.services[MEMBERS].get("ann").role == "admin"


async def test_new_members_get_the_limits_of_the_template(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running(sign_in_template="template") as proxy:
        status, answer = await who(session, proxy, Remote_User="ann")
        assert (status, answer["error"]["type"]) == (503, "template_missing")
        template = Member(
            "template", role="admin", weight=2, disabled=True, limits=Limits(jobs_per_day=7)
        )
        await proxy.services[MEMBERS].add(template)
        assert (await who(session, proxy, Remote_User="ann"))[0] == 200
        member = proxy.services[MEMBERS].get("ann")
        assert (member.weight, member.limits.jobs_per_day) == (2, 7)
        assert (member.role, member.disabled) == ("user", False)


async def test_a_member_who_is_disabled_is_out_and_the_sockets_close(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        async with session.ws_connect(proxy.url / "ws", headers={HEADER: "ann"}) as socket:
            await socket.receive(timeout=TIMEOUT)
            await proxy.services[MEMBERS].change("ann", disabled=True)
            while (message := await socket.receive(timeout=TIMEOUT)).type != (
                aiohttp.WSMsgType.CLOSE
            ):
                pass
            assert message.data == 1008
        status, answer = await who(session, proxy, Remote_User="ann")
        assert (status, answer["error"]["type"]) == (403, "member_disabled")


async def test_a_member_makes_tokens_for_programs(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        headers = {HEADER: "ann"}
        url, body = proxy.url / "proxy/api/tokens", {"member": "ann", "note": "laptop"}
        async with session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 201
            token = (await answer.json())["token"]
        async with session.get(proxy.url / "api/user", headers=bearer(token)) as answer:
            assert (await answer.json())["id"] == "ann"


async def test_the_sign_in_page_says_who_signed_in(
    running: Running, session: aiohttp.ClientSession
) -> None:
    async with running() as proxy:
        async with session.get(proxy.url / "proxy/sign-in", headers={HEADER: "ann"}) as answer:
            text = await answer.text()
        assert "<strong>ann</strong>" in text
        assert "<form" not in text


async def test_it_is_in_the_audit_record(running: Running, session: aiohttp.ClientSession) -> None:
    async with running(sign_in_groups_header=GROUPS, sign_in_admin_groups="ops") as proxy:
        for groups in ("users", "ops"):
            await who(session, proxy, Remote_User="ann", Remote_Groups=groups)
        entries = await proxy.services[ACCOUNTING].audit.page(limit=10)
    assert [(entry["action"], entry["member"], entry["role"]) for entry in entries] == [
        ("member_role_changed", "ann", "admin"),
        ("member_provisioned", "ann", "user"),
    ]
