"""The way out through an HTTP proxy, where the environment names one."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from yarl import URL

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def outward_proxy(url: URL) -> URL | None:
    """What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say for `url`; never for this machine.

    aiohttp reads these with `trust_env` only, which sends the passwords of ~/.netrc as well. It
    speaks to HTTP proxies alone: another kind is passed by.
    """
    host = url.host or ""
    if host in _LOOPBACK or proxy_bypass(host):
        return None
    scheme = "https" if url.scheme in ("https", "wss") else "http"
    named = getproxies().get(scheme)
    if not named:
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    return proxy if proxy.scheme in ("http", "https") else None
