"""How a request came: what stands before the path, who is behind proxies, and from which page."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from unittest.mock import Mock

import aiohttp
import graphs
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from stack import Client, running_proxy
from yarl import URL

from proxy.api import origins
from proxy.api.origins import is_cross_origin, is_foreign, is_rebindable
from proxy.api.requests import Site, site_of
from proxy.edge.addressing import client_of, peer_of, strip
from proxy.settings.values import to_base_path
from proxy.simulator import Simulator

HERE = "127.0.0.1:8188"
TOKEN = "ccp_" + "a" * 40


def _url(raw: str) -> URL:
    """As aiohttp's parser makes it of a request line."""
    path, _, query = raw.partition("?")
    return URL.build(path=path, query_string=query, encoded=True)


@pytest.mark.parametrize(
    ("raw", "base", "stripped"),
    [
        ("/prompt", "", "/prompt"),
        ("/comfy/prompt", "/comfy", "/prompt"),
        ("/comfy/", "/comfy", "/"),
        ("/comfyui/prompt", "/comfy", "/comfyui/prompt"),
        ("/prompt", "/comfy", "/prompt"),
        (
            "/a/b/api/view?filename=x%20y&type=output",
            "/a/b",
            "/api/view?filename=x%20y&type=output",
        ),
        (f"/t/{TOKEN}/ws?clientId=1", "", "/ws?clientId=1"),
        (f"/comfy/t/{TOKEN}/api/jobs", "/comfy", "/api/jobs"),
        (f"/t/{TOKEN}/userdata/workflows%2Fa.json", "", "/userdata/workflows%2Fa.json"),
        (f"/t/{TOKEN}/userdata/..%2Fa.json", "", "/userdata/..%2Fa.json"),
        (f"/T/{TOKEN}/prompt", "", f"/T/{TOKEN}/prompt"),
        (f"/%74/{TOKEN}/prompt", "", f"/%74/{TOKEN}/prompt"),
        (f"//t/{TOKEN}/prompt", "", f"//t/{TOKEN}/prompt"),
        (f"/x/t/{TOKEN}/prompt", "", f"/x/t/{TOKEN}/prompt"),
        (f"/t%2F{TOKEN}/prompt", "", f"/t%2F{TOKEN}/prompt"),
    ],
)
def test_the_prefix_goes_and_nothing_else(raw: str, base: str, stripped: str) -> None:
    url, prefix = strip(_url(raw), base, members=True)
    assert url.raw_path_qs == stripped
    assert not prefix.escapes
    assert prefix.path_token == (TOKEN if "/t/" not in stripped and f"/t/{TOKEN}/" in raw else None)


@pytest.mark.parametrize(
    "raw",
    [
        f"/t/{TOKEN}/../prompt",
        f"/t/{TOKEN}/./prompt",
        f"/t/{TOKEN}/a/%2e%2E/prompt",
        f"/t/{TOKEN}//prompt",
        f"/t/{TOKEN}/..",
        "/comfy/../prompt",
        "/comfy//prompt",
    ],
)
def test_a_path_that_leads_out_of_its_prefix_is_noticed(raw: str) -> None:
    _, prefix = strip(_url(raw), "/comfy", members=True)
    assert prefix.escapes


def test_tokens_in_the_query_are_taken_off_with_members_only() -> None:
    url, prefix = strip(_url("/ws?token=a&clientId=1&token=b"), "", members=True)
    assert (str(url), prefix.query_tokens) == ("/ws?clientId=1", ("a", "b"))
    url, prefix = strip(_url("/ws?token=a"), "", members=False)
    assert (str(url), prefix.query_tokens) == ("/ws?token=a", ())


def test_without_members_a_token_in_the_path_is_none() -> None:
    url, prefix = strip(_url(f"/t/{TOKEN}/prompt"), "", members=False)
    assert (str(url), prefix.path_token) == (f"/t/{TOKEN}/prompt", None)


@pytest.mark.parametrize("raw", ["/comfy", f"/t/{TOKEN}", f"/comfy/t/{TOKEN}?x=1"])
def test_a_prefix_without_its_slash_is_bare(raw: str) -> None:
    url, prefix = strip(_url(raw), "/comfy", members=True)
    assert url.raw_path == "/"
    assert prefix.bare


@pytest.mark.parametrize(
    ("written", "meant"),
    [("", ""), ("/", ""), ("comfy", "/comfy"), ("/comfy/", "/comfy"), ("/a/b.c", "/a/b.c")],
)
def test_a_base_path_is_written_as_people_like(written: str, meant: str) -> None:
    assert to_base_path(written) == meant


@pytest.mark.parametrize(
    "wrong", ["/t/", "t", "/a/../b", "/a//b", "/a b", "/ä", "/a?b", 5, "/a/./"]
)
def test_a_base_path_is_plain(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"not|tokens"):
        to_base_path(wrong)


TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def received(peer: str, headers: CIMultiDict[str], *, tls: bool = False) -> web.Request:
    """A request on a connection from `peer`."""
    connection = Mock(peer=peer_of(peer, TRUSTED), ssl_context=tls)
    return make_mocked_request("GET", "/", headers, protocol=connection)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "garbage", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, garbage", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", '"[2001:db8::1]:4711"', "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("fd00::1", "2001:db8::2", "2001:db8::2"),
        ("fe80::1%eth0", "2001:db8::2", "fe80::1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_address_is_the_rightmost_that_is_no_trusted_proxys(
    peer: str, forwarded: str, address: str
) -> None:
    headers = CIMultiDict({"X-Forwarded-For": forwarded})
    assert client_of(peer_of(peer, TRUSTED), headers) == address


def test_several_headers_are_one_list() -> None:
    headers = CIMultiDict([("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "198.51.100.1")])
    assert client_of(peer_of("10.0.0.1", TRUSTED), headers) == "198.51.100.1"


def test_scheme_and_host_are_believed_of_a_trusted_proxy_alone() -> None:
    headers = CIMultiDict(
        {
            "Host": "127.0.0.1:8188",
            "X-Forwarded-Proto": "HTTPS",
            "X-Forwarded-Host": "comfy.example",
        }
    )
    assert site_of(received("10.0.0.1", headers)) == Site("https", "comfy.example")
    assert site_of(received("192.0.2.1", headers)) == Site("http", "127.0.0.1:8188")
    headers["X-Forwarded-Proto"] = "gopher"
    assert site_of(received("10.0.0.1", headers, tls=True)).scheme == "https"


async def test_a_job_below_the_base_path(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path / "data", base_path="/comfy/") as proxy:
        client = Client(session, proxy.url / "comfy")
        entry = await client.run(graphs.plain())
        (image,) = next(iter(entry["outputs"].values()))["images"]
        whole = await client.view(image)
        view = (client.url / "view").with_query(image)
        async with session.get(view, headers={"Range": "bytes=0-3"}) as part:
            assert (part.status, await part.read()) == (206, whole[:4])
        async with session.head(view) as head:
            assert head.status == 200
            assert int(head.headers["Content-Length"]) == len(whole)
        await client.upload("a.png", graphs.png())
        status, _ = await Client(session, proxy.url).get("queue")
        assert status == 200


def refused(**headers: str) -> bool:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return is_foreign((), named, named.get("Host", ""))


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:8188",
        "https://127.0.0.1:8188",
        "HTTP://127.0.0.1:8188",
        "http://127.0.0.1",
    ],
)
def test_the_servers_own_pages_pass(origin: str) -> None:
    assert not refused(Host=HERE, Origin=origin)


@pytest.mark.parametrize("origin", ["", "null", "garbage", "file://"])
def test_an_origin_without_a_host_is_none(origin: str) -> None:
    assert not refused(Host=HERE, Origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:8188",
        "http://127.0.0.1:1",
        "http://localhost:8188",
        "http://127.0.0.1@evil.example",
        "http://user@127.0.0.1:8188",
        "chrome-extension://abcdef",
        "http://[",
        "http://127.0.0.1:port",
    ],
)
def test_other_pages_are_refused_on_a_loopback_host(origin: str) -> None:
    assert refused(Host=HERE, Origin=origin)


@pytest.mark.parametrize(
    "host", ["localhost:8188", "[::1]:8188", "127.1.2.3", "a.localhost", "[", "LOCALHOST."]
)
def test_every_loopback_name_is_guarded(host: str) -> None:
    assert refused(Host=host, Origin="http://evil.example")


def test_the_ipv6_loopback_knows_itself() -> None:
    assert not is_cross_origin("[::1]:8188", "http://[::1]:8188")


@pytest.mark.parametrize("host", ["203.0.113.7:8188", "no-such-host.invalid"])
def test_elsewhere_the_origin_does_not_matter(host: str) -> None:
    assert not refused(Host=host, Origin="http://evil.example")


def test_a_port_counts_only_if_both_name_one() -> None:
    assert not refused(Host="127.0.0.1", Origin="http://127.0.0.1:8188")


def test_a_request_that_says_cross_site_is_refused_everywhere() -> None:
    assert refused(Host="203.0.113.7", Sec_Fetch_Site="cross-site")
    assert not refused(Host=HERE, Sec_Fetch_Site="same-origin")


@pytest.mark.parametrize(
    ("method", "mode", "expected"),
    [("GET", "navigate", False), ("HEAD", "navigate", False), ("POST", "navigate", True),
     ("GET", "no-cors", True), ("GET", "cors", True), ("OPTIONS", "navigate", True)],
)  # fmt: skip
def test_a_link_of_another_site_passes(method: str, mode: str, *, expected: bool) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
    assert is_foreign((), headers, HERE, method) == expected


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8188", "localhost", "LOCALHOST.:8188", "[::1]:8188", "comfy.localhost:8188", "",
     "192.168.1.5:8188", "comfy:8188", "host.docker.internal:8188", "gateway.example",
     "a.b.team.example:8188"],
)  # fmt: skip
def test_a_name_that_nobody_can_point_here_may_be_used(host: str) -> None:
    assert not is_rebindable(host, ("gateway.example", "*.team.example"))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8188", "127.0.0.1.evil.example", "localhost.evil.example",
     "team.example", "evilteam.example", "gateway.example.evil.net", "[a.b"],
)  # fmt: skip
def test_a_name_that_somebody_may_have_pointed_here_may_not(host: str) -> None:
    assert is_rebindable(host, ("gateway.example", "*.team.example"))


def test_an_allowed_origin_passes_and_others_do_not() -> None:
    here, headers = "https://app.example", {"Sec-Fetch-Site": "cross-site"}
    assert not is_foreign([here], {**headers, "Origin": here}, HERE)
    assert is_foreign([here], {**headers, "Origin": "https://evil.example"}, HERE)


def test_a_star_lets_every_page_pass() -> None:
    assert not is_foreign(["*"], {"Origin": "https://evil.example"}, HERE)


def test_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger writes into `Host` must not keep the resolver's threads from the cloud."""

    def forbidden(*_: object) -> None:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr("socket.getaddrinfo", forbidden)
    assert not refused(Host="slow.example:8188", Origin="http://evil.example")


def test_a_loopback_name_of_the_hosts_file_is_guarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "# comment\n127.0.1.1 Studio studio.lan # mine\n::1 six\n192.0.2.7 elsewhere\nx y\n"
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: text)
    origins._loopback_names.cache_clear()
    try:
        for host, expected in (
            ("studio", True),
            ("STUDIO.lan:8188", True),
            ("six", True),
            ("elsewhere", False),
            ("y", False),
        ):
            assert refused(Host=host, Origin="http://evil.example") is expected
    finally:
        origins._loopback_names.cache_clear()
