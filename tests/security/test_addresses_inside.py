"""Addresses that others choose, and that lead into the network of the proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from proxy.cloud import account_client, connections
from proxy.cloud.client import CloudClient
from proxy.cloud.connections import CloudAddresses, Connections
from proxy.cloud.errors import CloudError
from proxy.cloud.reach import AddressRefusedError, address_in, reach_of
from proxy.packs import remote
from proxy.packs.remote import NotFetchedError, RemoteFiles
from proxy.sign_in.client import Metadata, ProviderClient
from proxy.sign_in.provider import ProviderOptions, ProviderUnavailableError
from proxy.webhooks import addresses
from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.endpoints import new_secret
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


def provider_at(issuer: str) -> ProviderClient:
    return ProviderClient(ProviderOptions(name="company", issuer=issuer, client_id="comfy"))


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


#: Where a redirect leads: to this machine in each form, by a scheme that is no HTTP, or nowhere.
PLACES = (
    *(f"http://{host}:{{port}}/x" for host in [*HOSTS, *NAMES]),
    "//127.0.0.1:{port}/x",
    "http://allowed@127.0.0.1:{port}/x",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/x",
    "http://",
)


class Outside:
    """A server of the internet that redirects to `place`."""

    def __init__(self) -> None:
        self.url = ""
        self.place = ""

    async def answer(self, _request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": self.place})


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    made = Outside()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with TestServer(app, host=PUBLIC) as server:
        made.url = f"http://{PUBLIC}:{server.port}"
        yield made


@pytest.mark.parametrize("place", PLACES)
async def test_a_redirect_of_a_picture_leads_to_no_address_inside(
    inside: Inside, outside: Outside, tmp_path: Path, place: str
) -> None:
    outside.place = place.format(port=inside.port)
    allowed = [URL(at(inside, host)).host or "" for host in [*HOSTS, *NAMES]]
    files = RemoteFiles((PUBLIC, *allowed), max_bytes=1000)
    await files.start()
    for _ in range(2):
        with pytest.raises(NotFetchedError):
            await files.fetch(outside.url, tmp_path / "file")
    await files.close()
    assert inside.connections == 0


@pytest.mark.parametrize("place", PLACES)
async def test_a_redirect_of_a_webhook_leads_nowhere(
    inside: Inside, outside: Outside, place: str
) -> None:
    outside.place = place.format(port=inside.port)
    sender = WebhookSender(WebhookAddresses().check)
    await sender.start()
    for _ in range(2):
        answer = await sender.send(outside.url, new_secret(), "msg_1", b"{}", 5.0)
        assert (answer.status, answer.accepted) == (307, False)
    await sender.close()
    assert inside.connections == 0


@pytest.mark.parametrize("place", PLACES)
async def test_a_redirect_of_a_download_leads_to_no_address_inside(
    inside: Inside, outside: Outside, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tls = partial(CloudAddresses, plain_http=True)  # the server stands for one with TLS
    monkeypatch.setattr(account_client, "CloudAddresses", with_tls)
    outside.place = place.format(port=inside.port)
    cloud = CloudClient(URL(outside.url), "comfyui-key")
    await cloud.start()
    for _ in range(2):
        with pytest.raises(CloudError):
            async with cloud.download("f00d.png", "output"):
                pass
    await cloud.close()
    assert inside.connections == 0


@pytest.mark.parametrize("host", [*HOSTS, *NAMES])
async def test_a_provider_of_the_internet_names_no_endpoint_inside(
    inside: Inside, outside: Outside, host: str
) -> None:
    url = at(inside, host)
    metadata = Metadata(outside.url, url, url, url)
    async with provider_at(outside.url) as provider:
        for _ in range(2):
            with pytest.raises(ProviderUnavailableError):
                await provider.keys(metadata)
            with pytest.raises(ProviderUnavailableError):
                await provider.exchange(metadata, "code", "verifier", "https://example.com/")
    assert inside.connections == 0


@pytest.mark.parametrize("place", PLACES)
async def test_a_redirect_of_a_provider_leads_nowhere(
    inside: Inside, outside: Outside, place: str
) -> None:
    outside.place = place.format(port=inside.port)
    async with provider_at(outside.url) as provider:
        for _ in range(2):
            with pytest.raises(ProviderUnavailableError):
                await provider.metadata()
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
