"""The admin API over members and tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stack import Client, running_proxy
from team import Team, bearer, running_team

from proxy.api.keys import MEMBERS
from proxy.members.tokens import id_prefix
from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
def ask(team: Team, session: aiohttp.ClientSession) -> Any:
    async def call(
        method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        url = team.url.with_path(f"/proxy/api/{path}")
        headers = bearer(token or team.ann)
        async with session.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json() if await answer.read() else None

    return call


async def test_the_life_of_a_member_and_a_token(team: Team, ask: Any) -> None:
    limits = {"max_queued": 3, "denied_classes": ["A"]}
    status, eve = await ask("POST", "members", {"name": "Eve", "weight": 2, "limits": limits})
    assert (status, eve["role"], eve["weight"]) == (201, "user", 2.0)
    assert eve["limits"]["max_queued"] == 3
    status, made = await ask("POST", "tokens", {"member": "eve", "note": "bot", "expires": "1d"})
    assert status == 201
    found = team.members.access(made["token"])
    assert found is not None
    assert found.member == team.members.get("Eve")
    status, listed = await ask("GET", "tokens")
    assert made["token"] not in str(listed)
    assert {token["member"] for token in listed["tokens"]} == {"ann", "bob", "Eve"}
    status, eve = await ask("PATCH", "members/eve", {"limits": {"max_queued": None}})
    assert (status, eve["limits"]["max_queued"]) == (200, None)
    assert eve["limits"]["denied_classes"] == ["A"]
    assert (await ask("DELETE", f"tokens/{made['id']}"))[0] == 204
    assert team.members.access(made["token"]) is None
    assert (await ask("DELETE", "members/Eve"))[0] == 204
    assert [member["name"] for member in (await ask("GET", "members"))[1]["members"]] == [
        "ann",
        "bob",
    ]


@pytest.mark.parametrize(
    ("method", "body"),
    [("PATCH", {"disabled": True}), ("PATCH", {"role": "user"}), ("DELETE", None)],
)
async def test_no_admin_shuts_oneself_out(
    team: Team, ask: Any, method: str, body: dict[str, Any] | None
) -> None:
    status, answered = await ask(method, "members/Ann", body)
    assert (status, answered["error"]["type"]) == (409, "own_access")
    found = team.members.access(team.ann)
    assert found is not None
    assert found.member == team.members.get("ann")
    assert (await ask("PATCH", "members/ann", {"weight": 2}))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "members", {"name": "x"}),
        ("PATCH", "members/bob", {"role": "admin"}),
        ("DELETE", "members/ann", None),
        ("POST", "tokens", {"member": "ann"}),
        ("DELETE", "tokens/{ann}", None),
    ],
)
async def test_a_user_may_not(team: Team, ask: Any, method: str, path: str, body: Any) -> None:
    path = path.format(ann=id_prefix(team.ann))
    status, answer = await ask(method, path, body, token=team.bob)
    assert (status, answer["error"]["type"]) == (403, "admins_only")
    assert team.members.access(team.ann) is not None
    assert [member.name for member in team.members.members()] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "members", {"name": "ann"}, 409),
        ("POST", "members", {"name": "a/b"}, 400),
        ("POST", "members", {"name": 5}, 400),
        ("POST", "members", {"name": "x", "weight": 0}, 400),
        ("POST", "members", {"name": "x", "color": "red"}, 400),
        ("POST", "members", {"name": "x", "limits": {"max_queued": -1}}, 400),
        ("POST", "members", [1], 400),
        ("PATCH", "members/nobody", {}, 404),
        ("DELETE", "members/nobody", None, 404),
        ("POST", "tokens", {"member": "nobody"}, 404),
        ("POST", "tokens", {"member": "ann", "expires": "soon"}, 400),
        ("POST", "tokens", {"member": "ann", "note": "x" * 201}, 400),
        ("DELETE", "tokens/zzzz", None, 404),
    ],
)
async def test_bad_input_is_a_clear_refusal(
    ask: Any, method: str, path: str, body: Any, status: int
) -> None:
    found, answer = await ask(method, path, body)
    assert found == status
    assert answer["error"]["message"].endswith(".")


async def test_a_form_is_not_json(team: Team, session: aiohttp.ClientSession) -> None:
    url = team.url.with_path("/proxy/api/members")
    for type_ in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {**bearer(team.ann), "Content-Type": type_}
        async with session.post(url, data=b'{"name": "eve"}', headers=headers) as answer:
            assert answer.status == 415
    assert len(team.members.members()) == 2


async def test_the_first_member_comes_by_the_command_line(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        client = Client(session, proxy.url)
        status, answer = await client.post("proxy/api/members", {"name": "ann"})
        assert (status, answer["error"]["type"]) == (409, "no_members")
        assert not proxy.services[MEMBERS].has_members
