"""Attacks by web pages: one that points its name at this machine, and links of other sites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from stack import Proxy, running_proxy
from team import bearer, running_team
from yarl import URL

from proxy.simulator import Simulator

REBOUND = {"Host": "evil.example:8188", "Origin": "http://evil.example:8188"}


async def status(
    session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], method: str = "GET"
) -> int:
    async with session.request(method, url, headers=headers, allow_redirects=False) as answer:
        return answer.status


async def test_a_page_that_points_its_name_here_is_refused(
    proxy: Proxy, session: aiohttp.ClientSession
) -> None:
    async with session.get(proxy.url / "queue", headers=REBOUND) as answer:
        assert answer.status == 403
        assert json.loads(await answer.read())["error"]["type"] == "host_not_allowed"
    same = {"Host": "evil.example:8188", "Sec-Fetch-Site": "same-origin"}
    for method, path in (("GET", "object_info"), ("POST", "prompt"), ("GET", "nothing")):
        assert await status(session, proxy.url / path, same, method) == 403
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(proxy.url / "ws", headers=REBOUND)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "host.docker.internal", "comfy"])
async def test_names_that_nobody_can_register_are_served(
    proxy: Proxy, session: aiohttp.ClientSession, host: str
) -> None:
    assert await status(session, proxy.url / "queue", {"Host": host}) == 200


async def test_a_name_of_the_setting_is_served(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path, allowed_hosts="comfy.example") as proxy:
        assert await status(session, proxy.url / "queue", {"Host": "comfy.example"}) == 200
        assert await status(session, proxy.url / "queue", {"Host": "evil.example"}) == 403


async def test_with_members_any_name_is_served_to_who_has_a_token(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_team(simulator, tmp_path) as team:
        headers = {**bearer(team.bob), "Host": "comfy.example"}
        assert await status(session, team.url / "queue", headers) == 200
        assert await status(session, team.url / "queue", {"Host": "comfy.example"}) == 401


async def test_a_link_of_another_site_can_be_followed(
    proxy: Proxy, session: aiohttp.ClientSession
) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert await status(session, proxy.url / "queue", followed) == 200
    assert await status(session, proxy.url / "queue", followed, "POST") == 403
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert await status(session, proxy.url / "queue", embedded) == 403
