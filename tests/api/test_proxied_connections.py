"""Connections of a reverse proxy, which carry the requests of many clients."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from typing import Any

import pytest
from wire import HEAD

from proxy.members.directory import Directory
from proxy.sharing.owners import Owner

ANN, STRANGER = "203.0.113.9", "198.51.100.7"
HERE = (ipaddress.ip_network("127.0.0.1"),)


class Upstream:
    """A connection of a reverse proxy, and the server's end of it."""

    def __init__(self, server: Any, reader: Any, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    @property
    def connection(self) -> Any:
        (connection,) = self._server.connections
        return connection

    async def ask(self, address: str, token: str | None = None) -> bytes:
        """Pass a request of a client on; return the first line of its answer."""
        head = HEAD + f"X-Forwarded-For: {address}\r\n".encode()
        if token is not None:
            head += f"Authorization: Bearer {token}\r\n".encode()
        return await self.answer(head + b"\r\n")

    async def answer(self, sent: bytes) -> bytes:
        """Send something; return the first line of the answer."""
        self._writer.write(sent)
        answer: bytes = await self._reader.readuntil(b"\r\n\r\n")
        length = answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))
        return answer.partition(b"\r\n")[0]


@pytest.fixture
async def upstream(serve: Any, members: Directory) -> AsyncIterator[Upstream]:
    client = await serve(trusted_proxies=HERE, members=members)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    yield Upstream(client.server.server, reader, writer)
    writer.close()


async def test_a_connection_of_the_proxy_is_of_no_address(upstream: Upstream) -> None:
    assert b" 401 " in await upstream.ask(STRANGER)
    assert upstream.connection.owner == Owner()


async def test_each_request_has_the_sender_that_the_proxy_names(
    upstream: Upstream, token: str
) -> None:
    assert b" 200 " in await upstream.ask(ANN, token)
    assert upstream.connection.sender == Owner("ann")
    assert b" 401 " in await upstream.ask(STRANGER)
    assert upstream.connection.sender == Owner(address=STRANGER)
    assert b" 200 " in await upstream.ask(ANN, token)
    assert upstream.connection.sender == Owner("ann")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_what_cannot_be_parsed_is_answered_as_without_a_proxy(
    upstream: Upstream, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert await upstream.answer(sent) == b"HTTP/1.0 400 Bad Request"
    assert "Traceback" not in caplog.text


async def test_time_is_charged_to_the_sender_of_each_request(
    upstream: Upstream, token: str
) -> None:
    await upstream.ask(ANN, token)
    turns = upstream.connection.driver.turns
    ann = turns.of_member("ann", ANN)
    assert upstream.connection.driver.account is ann
    await upstream.ask(STRANGER)
    assert upstream.connection.driver.account is turns.strangers
    assert upstream.connection.driver.address == STRANGER
    await upstream.ask(ANN, token)
    assert upstream.connection.driver.account is ann


async def test_a_stranger_at_the_address_of_a_member_is_apart_from_both(
    upstream: Upstream, token: str
) -> None:
    await upstream.ask(ANN, token)
    await upstream.ask(ANN)
    driver = upstream.connection.driver
    assert driver.account not in (driver.turns.strangers, driver.turns.of_member("ann", ANN))


async def test_the_connection_stays_the_members_meanwhile(upstream: Upstream, token: str) -> None:
    await upstream.ask(ANN, token)
    await upstream.ask(STRANGER)
    assert upstream.connection.owner == Owner("ann")
