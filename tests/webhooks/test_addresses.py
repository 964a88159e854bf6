"""Which URLs and addresses webhooks may have."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from cpu_time import least_seconds

from proxy.cloud.reach import AddressRefusedError
from proxy.webhooks.addresses import MAX_URL, WebhookAddresses, WebhookUrlError

PUBLIC = WebhookAddresses()
OFFICE = WebhookAddresses((ip_network("10.1.0.0/16"), ip_network("::1/128")))


def test_a_long_host_is_refused_before_it_is_parsed() -> None:
    def check() -> None:
        with pytest.raises(WebhookUrlError):
            WebhookAddresses().check_url("http://" + "tä" * 500_000)

    assert least_seconds(check) < 0.1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",  # metadata of clouds
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "::ffff:0:127.0.0.1",
        "5f00::1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "fec0::1",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(AddressRefusedError, match="webhook_networks"):
        PUBLIC.check(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_taken(address: str) -> None:
    PUBLIC.check(address)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "::1", "93.184.215.14"])
def test_the_networks_of_the_setting_are_taken(address: str) -> None:
    OFFICE.check(address)


@pytest.mark.parametrize("address", ["10.2.0.1", "127.0.0.1", "169.254.169.254", "::2"])
def test_others_are_refused_beside_them(address: str) -> None:
    with pytest.raises(AddressRefusedError):
        OFFICE.check(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::5]@",
        "",
        "example.com/hook",
        "/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://",
        "https://:443/",
        "http://[::1",
        "https://example.com:99999/",
        "https://anna:secret@example.com/",
        "https://example.com/#there",
        "https://example.com/" + "a" * MAX_URL,
        "https://example.com/\r\nX: y",
        "https://example.com/\x1b[2J",
        "https://example.com/\ud800",
        "http://127.0.0.1:8000/hook",
        "http://[::1]/hook",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_urls_that_no_webhook_has(url: str) -> None:
    with pytest.raises(WebhookUrlError) as caught:
        PUBLIC.check_url(url)
    assert str(caught.value).endswith(".")
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://example.com/hook?token=1", "http://hooks.internal:8080/", "http://[::1]:9/"]
)
def test_urls_that_a_webhook_may_have(url: str) -> None:
    OFFICE.check_url(url)
