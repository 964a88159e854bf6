"""Connections are accepted together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import waiting

from proxy.edge.accepting import TOGETHER, Acceptor, listen
from proxy.runtime.supervisor import Supervisor


class Made(asyncio.Protocol):
    """Notes that its connection was made."""

    def __init__(self, made: list[Made]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(self)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    running = Supervisor()
    yield running
    await running.close()


def acceptor_of(made: list[Any], supervisor: Supervisor) -> Acceptor:
    make: Any = partial(Made, made)
    return Acceptor(make, None, supervisor)


async def test_many_connections_are_made_in_few_iterations(supervisor: Supervisor) -> None:
    made: list[Any] = []
    acceptor = acceptor_of(made, supervisor)
    sockets = await listen(["127.0.0.1"], 0)
    acceptor.start(sockets)
    address = sockets[0].getsockname()
    with ExitStack() as opened:
        for _ in range(4 * TOGETHER):
            opened.enter_context(socket.create_connection(address))
        for _ in range(2 * TOGETHER):
            await asyncio.sleep(0)
        assert len(made) == 4 * TOGETHER
    acceptor.stop()
    sockets[0].close()


async def test_connections_wait_for_the_next_to_accept_them(supervisor: Supervisor) -> None:
    first: list[Any] = []
    second: list[Any] = []
    sockets = await listen(["127.0.0.1"], 0)
    one, other = acceptor_of(first, supervisor), acceptor_of(second, supervisor)
    one.start(sockets)
    one.stop()
    with socket.create_connection(sockets[0].getsockname()):
        await asyncio.sleep(0)
        other.start(sockets)
        await waiting.until(lambda: len(second) == 1)
    assert first == []
    other.stop()
    sockets[0].close()


async def test_an_address_in_use_is_an_error_that_leaves_no_socket() -> None:
    (first,) = await listen(["127.0.0.1"], 0)
    first.listen()
    port = first.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        await listen(["127.0.0.2", "127.0.0.1"], port)
    (free,) = await listen(["127.0.0.2"], port)
    for listening in (first, free):
        listening.close()
