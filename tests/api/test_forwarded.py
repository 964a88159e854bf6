"""Who a client is behind reverse proxies."""

from __future__ import annotations

import ipaddress

import pytest
from multidict import CIMultiDict

from proxy.api.addressing import Caller, caller

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


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
    assert caller(peer, CIMultiDict({"X-Forwarded-For": forwarded}), TRUSTED).address == address


def test_several_headers_are_one_list() -> None:
    headers = CIMultiDict([("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "198.51.100.1")])
    assert caller("10.0.0.1", headers, TRUSTED).address == "198.51.100.1"


def test_scheme_and_host_are_believed_of_a_trusted_proxy_alone() -> None:
    headers = CIMultiDict(
        {
            "Host": "127.0.0.1:8188",
            "X-Forwarded-Proto": "HTTPS",
            "X-Forwarded-Host": "comfy.example",
        }
    )
    assert caller("10.0.0.1", headers, TRUSTED) == Caller("10.0.0.1", "https", "comfy.example")
    assert caller("192.0.2.1", headers, TRUSTED) == Caller("192.0.2.1", "http", "127.0.0.1:8188")
    headers["X-Forwarded-Proto"] = "gopher"
    assert caller("10.0.0.1", headers, TRUSTED, scheme="https").scheme == "https"
