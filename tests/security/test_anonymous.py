"""What somebody without a token can make the proxy do: little, and nothing that costs."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.compression_utils import ZLibDecompressor
from team import Team, bearer, running_team

from proxy.simulator import Simulator


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that is unpacked from now on."""
    sizes: list[int] = []
    unpack = ZLibDecompressor.decompress_sync

    def noted(self: ZLibDecompressor, data: Any, max_length: int = 0) -> bytes:
        sizes.append(len(data))
        return unpack(self, data, max_length)

    monkeypatch.setattr(ZLibDecompressor, "decompress_sync", noted)
    return sizes


@pytest.mark.parametrize("path", ["proxy/sign-in", "prompt", "upload/image", "nothing"])
async def test_no_packed_body_is_unpacked(
    team: Team, session: aiohttp.ClientSession, unpacked: list[int], path: str
) -> None:
    bomb = gzip.compress(b"token=" + b"&a" * 10_000_000)
    headers = {
        "Content-Encoding": "gzip",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    async with session.post(team.url / path, data=bomb, headers=headers) as answer:
        assert answer.status in (401, 413, 415)
    assert unpacked == []
    members = {**bearer(team.bob), "Content-Encoding": "gzip"}
    async with session.post(
        team.url / "free", data=gzip.compress(b"{}"), headers=members
    ) as answer:
        assert answer.status == 200
    assert unpacked != []


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_sign_in_form_is_not_read(
    team: Team, session: aiohttp.ClientSession, chunked: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"a" * 1024

    body: Any = pieces() if chunked else b"a" * 100_000
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with session.post(team.url / "proxy/sign-in", data=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (413, "form_too_large")


async def test_no_name_that_a_stranger_sends_is_looked_up(
    team: Team, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []
    look_up = socket.getaddrinfo

    def noted(host: Any, *rest: Any, **more: Any) -> Any:
        looked_up.append(host)
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    loop = asyncio.get_running_loop()
    original = loop.getaddrinfo

    async def noted_by_the_loop(host: Any, *rest: Any, **more: Any) -> Any:
        looked_up.append(host)
        return await original(host, *rest, **more)

    monkeypatch.setattr(loop, "getaddrinfo", noted_by_the_loop, raising=False)

    async def ask(number: int) -> int:
        headers = {"Host": f"slow{number}.invalid:8188", "Origin": "http://evil.invalid"}
        async with session.get(team.url / "queue", headers=headers) as answer:
            return answer.status

    assert set(await asyncio.gather(*map(ask, range(40)))) == {401}
    assert not [name for name in looked_up if "invalid" in str(name)]
