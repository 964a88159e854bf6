"""Ways around the door, and things that are too large for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stack import TIMEOUT
from team import Team, running_team

from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


async def ask(team: Team, target: str, *headers: str, method: str = "GET") -> int:
    """The status of a request written out byte by byte; 0 if the connection just ends."""
    reader, writer = await asyncio.open_connection(team.url.host, team.url.port)
    lines = [f"{method} {target} HTTP/1.1", f"Host: {team.url.authority}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    try:
        line = await asyncio.wait_for(reader.readline(), TIMEOUT)
    except ConnectionError:
        return 0
    finally:
        writer.close()
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/t/TOKEN/queue", 200),
        ("http://any.example/t/TOKEN/queue", 200),
        ("/t/TOKEN/../queue", 400),
        ("/t/TOKEN/..%2fqueue", 404),
        ("/t/TOKEN/%2e%2e/queue", 400),
        ("/t/TOKEN/./queue", 400),
        ("/t/TOKEN//queue", 400),
        ("/t/TOKEN%2fqueue", 401),
        ("/t%2fTOKEN/queue", 401),
        ("/%74/TOKEN/queue", 401),
        ("/T/TOKEN/queue", 401),
        ("//t/TOKEN/queue", 401),
        ("/api/t/TOKEN/queue", 401),
        ("/x/../t/TOKEN/queue", 401),
        ("/t/../queue", 401),
        ("/t//queue", 401),
        ("/t/TOKEN;x/queue", 401),
        ("/t/TOKEN%00/queue", 401),
        ("/t/WRONG/t/TOKEN/queue", 401),
        ("/t/TOKEN/t/WRONG/queue", 404),
        ("/healthz/../queue", 401),
        ("/healthz/", 401),
        ("/healthz%2f..%2fqueue", 401),
        ("/HEALTHZ", 401),
        ("/proxy/sign-in/../../queue", 401),
    ],
)
async def test_paths(team: Team, target: str, status: int) -> None:
    wrong = "ccp_" + "a" * 40
    written = target.replace("TOKEN", team.bob).replace("WRONG", wrong)
    assert await ask(team, written) == status


async def test_two_tokens_in_one_place_are_refused(team: Team) -> None:
    ann, bob = f"Authorization: Bearer {team.ann}", f"authorization: Bearer {team.bob}"
    assert await ask(team, "/queue", ann, bob) == 400
    assert await ask(team, "/queue", bob, bob) == 400
    assert await ask(team, "/queue", f"X-API-Key: {team.bob}", f"x-api-key: {team.bob}") == 400
    assert await ask(team, f"/queue?token={team.bob}&token={team.bob}") == 400
    assert await ask(team, f"/t/{team.ann}/queue", bob) == 400


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer",
        "Authorization: Bearer ",
        "Authorization: Basic !!!",
        "Authorization: Basic eA==",
        "Authorization: Digest TOKEN",
        "Authorization: TOKEN",
        "Authorization: Bearer TOKEN x",
        "Authorization: Bearer TOKEN, Bearer TOKEN",
        "X-API-Key: TOKENx",
        "X-Auth: TOKEN",
        "Cookie: comfy_proxy_session=TOKEN",
        "X-Forwarded-User: ann",
        "Comfy-User: ann",
    ],
)
async def test_odd_headers_let_nobody_in(team: Team, header: str) -> None:
    assert await ask(team, "/queue", header.replace("TOKEN", team.bob)) == 401


async def test_what_is_too_large_is_refused(team: Team) -> None:
    long = "a" * 40_000
    assert await ask(team, f"/t/{long}/queue") in (0, 400, 414)
    assert await ask(team, f"/queue?token={long}") in (0, 400, 414)
    assert await ask(team, "/queue", f"Authorization: Bearer {long}") in (0, 400, 431)
    assert await ask(team, "/queue", f"Cookie: comfy_proxy_session={long}") in (0, 400, 431)
    fits = "a" * 8_000
    assert await ask(team, f"/t/{fits}/queue") == 401
    assert await ask(team, f"/queue?token={fits}") == 401
    assert await ask(team, "/queue", f"Authorization: Bearer {fits}") == 401
    assert await ask(team, "/queue", f"Cookie: comfy_proxy_session={fits}") == 401
