"""Addresses that others choose, and that lead into the network of the proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from proxy.cloud import connections
from proxy.cloud.connections import CloudAddresses, Connections
from proxy.cloud.reach import AddressRefusedError, address_in, reach_of
from proxy.packs import remote
from proxy.packs.remote import NotFetchedError, RemoteFiles
from proxy.webhooks import addresses
from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.secret import new_secret
from proxy.webhooks.sender import WebhookSender

#: Hosts that are this machine.
HOSTS = (
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "127.0.0.1.",
    "\uff11\uff12\uff17.0.0.1",
)
#: A name that leads to an address of the internet and to this machine, and one whose address
#: changes with each look.
NAMES = ("both.example", "turns.example")
#: An address of this machine that counts as one of the internet's in these tests.
PUBLIC = "127.0.0.2"


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer for the names, and let an address of this machine be public."""
    looks = 0
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *given: Any, **named: Any) -> list[Any]:
        nonlocal looks
        if host not in NAMES:
            return look_up(host, port, *given, **named)
        looks += 1
        found = [PUBLIC, "127.0.0.1"]
        if host == "turns.example":
            found = [found[(looks + 1) % 2]]
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, int(port or 0))) for address in found]

    def reach(address: str) -> str:
        return "public" if address == PUBLIC else reach_of(address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for module in (connections, remote, addresses):
        monkeypatch.setattr(module, "reach_of", reach)


class Inside:
    """A server of this machine that nobody outside may reach. It counts connections."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0

    async def take(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    made = Inside()
    async with await asyncio.start_server(made.take, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


def at(inside: Inside, host: str) -> str:
    return f"http://{host}:{inside.port}/x"


@pytest.mark.parametrize("host", [*HOSTS, *NAMES])
async def test_a_picture_comes_from_no_address_inside(
    inside: Inside, tmp_path: Path, host: str
) -> None:
    files = RemoteFiles((URL(at(inside, host)).host or "",), max_bytes=1000)
    await files.start()
    for _ in range(2):
        with pytest.raises(NotFetchedError):
            await files.fetch(at(inside, host), tmp_path / "file")
    await files.close()
    assert inside.connections == 0


@pytest.mark.parametrize("host", [*HOSTS, *NAMES])
async def test_a_webhook_goes_to_no_address_inside(inside: Inside, host: str) -> None:
    sender = WebhookSender(WebhookAddresses().check)
    await sender.start()
    for _ in range(2):
        answer = await sender.send(at(inside, host), new_secret(), "msg_1", b"{}", 5.0)
        assert not answer.accepted
    await sender.close()
    assert inside.connections == 0


@pytest.mark.parametrize("host", [*HOSTS, *NAMES])
async def test_a_download_of_a_public_cloud_comes_from_no_address_inside(
    inside: Inside, host: str
) -> None:
    cloud = CloudAddresses(URL("https://cloud.example"))
    cloud.check_cloud(PUBLIC)
    async with Connections(cloud.check_storage) as found:
        for _ in range(2):
            with pytest.raises((OSError, ValueError)):
                await found.request("POST", URL(at(inside, host)), data=b"{}")
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "::1"])
async def test_an_http_proxy_gets_no_address_inside_in_another_form(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(connections, "outward_proxy", lambda *_: URL("http://127.0.0.9:9"))
    cloud = CloudAddresses(URL("https://cloud.example"))
    cloud.check_cloud(PUBLIC)
    async with Connections(cloud.check_storage) as found:
        with pytest.raises(AddressRefusedError):
            found.choose(URL.build(scheme="http", host=host, path="/x"))


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4.5", "x127.1", ""])
def test_a_name_is_no_address(host: str) -> None:
    assert address_in(host) is None
