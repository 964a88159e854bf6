"""Which HTTP proxy the environment names."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.cloud.outward import outward_proxy


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://gate:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")


@pytest.mark.parametrize("url", ["https://cloud.example/api", "wss://cloud.example/ws"])
def test_https_and_wss_take_https_proxy(url: str) -> None:
    assert outward_proxy(URL(url)) == URL("http://gate:3128")


@pytest.mark.parametrize(
    "url",
    ["http://cloud.example/", "https://inside.example/", "https://127.0.0.1:1/", "https://[::1]/"],
)
def test_other_schemes_exceptions_and_this_machine_go_directly(url: str) -> None:
    assert outward_proxy(URL(url)) is None


@pytest.mark.parametrize(
    ("named", "proxy"),
    [("gate:3128", URL("http://gate:3128")), ("socks5://gate:1080", None), ("", None)],
)
def test_a_proxy_is_http_unless_it_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, named: str, proxy: URL | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", named)
    assert outward_proxy(URL("https://cloud.example/")) == proxy
