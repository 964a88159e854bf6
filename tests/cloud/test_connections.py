"""Which addresses are connected to, and by way of which HTTP proxy."""

from __future__ import annotations

from functools import partial

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from proxy.cloud import account_client, connections
from proxy.cloud.connections import CloudAddresses, outward_proxy
from proxy.cloud.errors import CloudRefused, CloudUnreachable
from proxy.cloud.event_socket import EventSocket
from proxy.cloud.observer import Observer
from proxy.cloud.reach import Reach, reach_of
from tests.cloud.conftest import KEY, Connect, Script, Serve, answer, redirect


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://gate:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")


def _place(url: str) -> tuple[str, str]:
    return URL(url).scheme, URL(url).host or ""


@pytest.mark.parametrize("url", ["https://cloud.example/api", "wss://cloud.example/ws"])
def test_https_and_wss_take_https_proxy(url: str) -> None:
    assert outward_proxy(*_place(url)) == URL("http://gate:3128")


@pytest.mark.parametrize(
    "url",
    ["http://cloud.example/", "https://inside.example/", "https://127.0.0.1:1/", "https://[::1]/"],
)
def test_other_schemes_exceptions_and_this_machine_go_directly(url: str) -> None:
    assert outward_proxy(*_place(url)) is None


@pytest.mark.parametrize(
    ("named", "proxy"),
    [("gate:3128", URL("http://gate:3128")), ("socks5://gate:1080", None), ("", None)],
)
def test_a_proxy_is_http_unless_it_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, named: str, proxy: URL | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", named)
    assert outward_proxy("https", "cloud.example") == proxy


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", "public"),
        ("2600::1", "public"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "loopback"),
        ("fe80::1%eth0", "loopback"),
        ("224.0.0.1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::808:808", "public"),
        ("2002:7f00:1::", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("::10.1.2.3", "private"),
        ("fec0::1", "private"),
    ],
)
def test_how_local_an_address_is(address: str, reach: Reach) -> None:
    assert reach_of(address) == reach


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of this machine that counts as one of the internet's."""
    address = "127.0.0.2"
    monkeypatch.setattr(
        connections, "reach_of", lambda ip: "public" if ip == address else reach_of(ip)
    )
    return address


@pytest.fixture
def in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server stand for one with TLS."""
    monkeypatch.setattr(account_client, "CloudAddresses", partial(CloudAddresses, plain_http=True))


@pytest.mark.usefixtures("in_the_clear")
async def test_a_cloud_of_the_internet_sends_no_download_to_this_machine(
    serve: Serve, connect: Connect, public: str
) -> None:
    storage = await serve(answer(body=b"secret of this machine"))
    for host in ("127.0.0.1", "localhost"):
        cloud = Script([redirect(storage.url.with_host(host) / "x")])
        server = await serving(cloud, public)
        client = await connect(server.make_url("/"))
        with pytest.raises(CloudRefused) as caught:
            async with client.download("f00d.png", "output"):
                pass
        assert caught.value.status == 403
        assert "REDIRECT_REFUSED" in str(caught.value)
        assert len(cloud.seen) == 1
        await server.close()
    assert storage.seen == []


async def test_a_cloud_of_this_machine_may(serve: Serve, connect: Connect) -> None:
    storage = await serve(answer(body=b"bytes"))
    cloud = await serve(redirect(storage.url.with_host("localhost") / "x"))
    client = await connect(cloud.url)
    async with client.download("f00d.png", "output") as download:
        assert b"".join([chunk async for chunk in download.chunks()]) == b"bytes"


async def test_a_key_does_not_go_to_a_public_address_in_the_clear(
    connect: Connect, public: str
) -> None:
    cloud = Script([answer({})])
    server = await serving(cloud, public)
    with pytest.raises(CloudUnreachable, match="plain http") as caught:
        await (await connect(server.make_url("/"))).user()
    assert not caught.value.sent
    assert KEY not in str(caught.value)
    socket = EventSocket(CloudAddresses(server.make_url("/")), KEY, Observer())
    await socket.start()
    assert not await socket.wait_connected(0.3)
    await socket.close()
    assert cloud.seen == []
    await server.close()


@pytest.mark.usefixtures("in_the_clear")
async def test_behind_a_proxy_an_address_in_the_redirect_is_refused_too(
    serve: Serve, connect: Connect, public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await serve(answer(body=b"by way of the proxy"))
    cloud = Script(
        [answer({}), redirect("http://10.1.2.3/x"), redirect("http://storage.example/x")]
    )
    server = await serving(cloud, public)
    client = await connect(server.make_url("/"))
    await client.system_stats()
    monkeypatch.setenv("HTTP_PROXY", str(gate.url))
    monkeypatch.setenv("NO_PROXY", public)
    with pytest.raises(CloudRefused, match="REDIRECT_REFUSED"):
        async with client.download("f00d.png", "output"):
            pass
    assert gate.seen == []
    async with client.download("f00d.png", "output") as download:
        assert b"".join([chunk async for chunk in download.chunks()]) == b"by way of the proxy"
    assert gate.seen[0].target == "http://storage.example/x"
    await server.close()


async def serving(script: Script, host: str) -> TestServer:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    server = TestServer(app, host=host)
    await server.start_server(access_log=None)
    return server
