"""Connections are accepted together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from proxy.edge.accepting import TOGETHER, Acceptor
from proxy.supervisor import Supervisor


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
    await acceptor.start(["127.0.0.1"], 0)
    address = acceptor.sockets[0].getsockname()
    with ExitStack() as opened:
        for _ in range(4 * TOGETHER):
            opened.enter_context(socket.create_connection(address))
        for _ in range(2 * TOGETHER):
            await asyncio.sleep(0)
        assert len(made) == 4 * TOGETHER
    acceptor.close()


async def test_an_address_in_use_is_an_error_that_leaves_no_socket(supervisor: Supervisor) -> None:
    first, second = acceptor_of([], supervisor), acceptor_of([], supervisor)
    await first.start(["127.0.0.1"], 0)
    port = first.sockets[0].getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        await second.start(["127.0.0.2", "127.0.0.1"], port)
    assert [listening.fileno() for listening in second.sockets] == [-1]
    first.close()
