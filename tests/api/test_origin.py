"""Which browser pages are refused."""

from __future__ import annotations

import pytest

from proxy.api.origin import OriginCheck, differs

HERE = "127.0.0.1:8188"


async def refused(**headers: str) -> bool:
    return await OriginCheck().refuses({key.replace("_", "-"): v for key, v in headers.items()})


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:8188",
        "https://127.0.0.1:8188",
        "HTTP://127.0.0.1:8188",
        "http://127.0.0.1",
    ],
)
async def test_the_servers_own_pages_pass(origin: str) -> None:
    assert not await refused(Host=HERE, Origin=origin)


@pytest.mark.parametrize("origin", ["", "null", "garbage", "file://"])
async def test_an_origin_without_a_host_is_none(origin: str) -> None:
    assert not await refused(Host=HERE, Origin=origin)


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
async def test_other_pages_are_refused_on_a_loopback_host(origin: str) -> None:
    assert await refused(Host=HERE, Origin=origin)


@pytest.mark.parametrize("host", ["localhost:8188", "[::1]:8188", "127.1.2.3", "a.localhost", "["])
async def test_every_loopback_name_is_guarded(host: str) -> None:
    assert await refused(Host=host, Origin="http://evil.example")


async def test_the_ipv6_loopback_knows_itself() -> None:
    assert not differs("[::1]:8188", "http://[::1]:8188")


@pytest.mark.parametrize("host", ["203.0.113.7:8188", "no-such-host.invalid"])
async def test_elsewhere_the_origin_does_not_matter(host: str) -> None:
    assert not await refused(Host=host, Origin="http://evil.example")


async def test_a_port_counts_only_if_both_name_one() -> None:
    assert not await refused(Host="127.0.0.1", Origin="http://127.0.0.1:8188")


async def test_a_request_that_says_cross_site_is_refused_everywhere() -> None:
    assert await refused(Host="203.0.113.7", Sec_Fetch_Site="cross-site")
    assert not await refused(Host=HERE, Sec_Fetch_Site="same-origin")


async def test_an_allowed_origin_passes_and_others_do_not() -> None:
    check = OriginCheck(["https://app.example"])
    allowed = {"Host": HERE, "Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    assert not await check.refuses(allowed)
    assert await check.refuses({**allowed, "Origin": "https://evil.example"})


async def test_a_star_lets_every_page_pass() -> None:
    assert not await OriginCheck(["*"]).refuses({"Host": HERE, "Origin": "https://evil.example"})
