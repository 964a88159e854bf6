"""Caddy signs people in with `forward_auth`, as the documents say, and names them to the proxy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from browser.reverse_proxy import caddy
from stack import TIMEOUT, Proxy, running_proxy
from yarl import URL

from proxy.api.keys import MEMBERS
from proxy.simulator import Simulator

PAGE = Path(__file__).parent.parent.parent / "docs/gateway.md"


def authentication() -> web.Application:
    """What Authelia does for a reverse proxy: let in who has its cookie, and name them."""

    async def decide(request: web.Request) -> web.Response:
        user = request.cookies.get("authelia_session")
        if user is None:
            return web.Response(status=401, text="sign in here")
        return web.Response(headers={"Remote-User": user, "Remote-Groups": "users,comfy-admins"})

    app = web.Application()
    app.router.add_get("/api/authz/forward-auth", decide)
    return app


@dataclass
class Front:
    """Caddy before a proxy."""

    url: URL
    proxy: Proxy
    session: aiohttp.ClientSession

    async def who(self, headers: dict[str, str]) -> tuple[int, str]:
        async with self.session.get(self.url / "api/user", headers=headers) as answer:
            if answer.status != 200:
                return answer.status, await answer.text()
            return answer.status, (await answer.json())["id"]


@pytest.fixture
async def front(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Front]:
    text = PAGE.read_text(encoding="utf-8")
    (directive,) = re.findall(r"(?s)(forward_auth .*?\n    \})", text)
    settings = {
        "trusted_proxies": "127.0.0.1",
        "sign_in_header": "Remote-User",
        "sign_in_groups_header": "Remote-Groups",
        "sign_in_admin_groups": "comfy-admins",
    }
    async with (
        TestServer(authentication()) as authelia,
        running_proxy(simulator, tmp_path / "data", **settings) as proxy,
        aiohttp.ClientSession() as session,
    ):
        there = directive.replace("authelia:9091", f"127.0.0.1:{authelia.port}")
        assert there != directive
        async with caddy(tmp_path / "caddy", int(proxy.url.port or 0), there) as url:
            yield Front(url, proxy, session)


async def test_who_is_signed_in_there_is_a_member_here(front: Front) -> None:
    signed_in = {"Cookie": "authelia_session=ann@example.com"}
    assert await front.who(signed_in) == (200, "ann")
    assert front.proxy.services[MEMBERS].get("ann").role == "admin"
    async with front.session.ws_connect(front.url / "ws", headers=signed_in) as socket:
        assert (await socket.receive_json(timeout=TIMEOUT))["type"] == "status"


async def test_who_is_not_gets_the_page_of_the_reverse_proxy(front: Front) -> None:
    assert await front.who({}) == (401, "sign in here")


async def test_a_client_cannot_name_itself(front: Front) -> None:
    assert await front.who({"Remote-User": "root"}) == (401, "sign in here")
    both = {"Cookie": "authelia_session=bob", "Remote-User": "root", "Remote-Groups": "x"}
    assert await front.who(both) == (200, "bob")
    assert [member.name for member in front.proxy.services[MEMBERS].members()] == ["bob"]
