"""Which browser pages are refused."""

from __future__ import annotations

import pytest

from proxy.api import addressing as origins
from proxy.api.addressing import differs, refuses

HERE = "127.0.0.1:8188"


def refused(**headers: str) -> bool:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return refuses((), named, named.get("Host", ""))


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
    assert not differs("[::1]:8188", "http://[::1]:8188")


@pytest.mark.parametrize("host", ["203.0.113.7:8188", "no-such-host.invalid"])
def test_elsewhere_the_origin_does_not_matter(host: str) -> None:
    assert not refused(Host=host, Origin="http://evil.example")


def test_a_port_counts_only_if_both_name_one() -> None:
    assert not refused(Host="127.0.0.1", Origin="http://127.0.0.1:8188")


def test_a_request_that_says_cross_site_is_refused_everywhere() -> None:
    assert refused(Host="203.0.113.7", Sec_Fetch_Site="cross-site")
    assert not refused(Host=HERE, Sec_Fetch_Site="same-origin")


def test_an_allowed_origin_passes_and_others_do_not() -> None:
    here, headers = "https://app.example", {"Sec-Fetch-Site": "cross-site"}
    assert not refuses([here], {**headers, "Origin": here}, HERE)
    assert refuses([here], {**headers, "Origin": "https://evil.example"}, HERE)


def test_a_star_lets_every_page_pass() -> None:
    assert not refuses(["*"], {"Origin": "https://evil.example"}, HERE)


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
