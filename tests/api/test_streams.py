"""Websockets and streams of events, of which a member has a share."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy.sharing.pool import Pool

Client = TestClient[Any, Any]


@pytest.fixture
def streams() -> Pool:
    return Pool(4, 1)


@pytest.fixture
async def client(serve: Any, streams: Pool) -> Client:
    started: Client = await serve(streams=streams)
    return started


async def test_a_member_leaves_places_to_others(client: Client) -> None:
    async with client.ws_connect("/ws"), client.ws_connect("/ws"), client.get("/ws") as answer:
        assert answer.status == 503
        assert (await answer.json())["error"]["type"] == "too_many_streams"


async def test_a_socket_that_closes_gives_its_place_back(client: Client, streams: Pool) -> None:
    for _ in range(3):
        async with client.ws_connect("/ws") as socket:
            await socket.receive()
            assert streams.used == 1


async def test_a_bad_handshake_takes_no_place(client: Client, streams: Pool) -> None:
    async with client.get("/ws") as answer:
        assert answer.status == 400
    assert streams.used == 0
