"""The addresses that programs for the cloud fetch without their key."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import graphs
import pytest
from stack import Client
from stopped_clock import stopped
from team import running_team
from yarl import URL

from proxy.api.tickets import TICKET_LIFETIME, Tickets
from proxy.simulator import Simulator
from proxy.storage.encryption import Cipher

SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


async def test_a_file_is_fetched_without_the_key(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_team(simulator, tmp_path / "data", base_path="/comfy") as team:
        bob = Client(session, team.url / "comfy" / "t" / team.bob)
        await bob.upload("a.png", graphs.png())
        await bob.upload("b.png", graphs.png())
        asked = (team.url / "comfy/api/view").with_query(filename="a.png", type="input")
        key = {"X-API-Key": team.bob}
        async with session.get(asked, headers=key, allow_redirects=False) as answer:
            assert answer.status == 302
            location = URL(answer.headers["Location"])
        assert location.path == "/comfy/view"
        assert team.bob not in str(location)
        async with session.get(location) as answer:
            assert (answer.status, await answer.read()) == (200, graphs.png())
        for other in (
            location.update_query(filename="b.png"),
            location.update_query(subfolder="x"),
            location.with_path("/comfy/queue", keep_query=True),
            location.with_path("/comfy/api/view", keep_query=True),
        ):
            async with session.get(other) as answer:
                assert answer.status == 401
        async with session.post(location) as answer:
            assert answer.status == 401
        await team.members.revoke(team.bob)
        async with session.get(location) as answer:
            assert answer.status == 401


def test_a_ticket_is_good_for_its_time_and_who_has_the_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = stopped(monkeypatch, 1000.0)
    tickets = Tickets(Cipher(secret=SECRET))
    url = tickets.add(URL("/view?filename=a.png"), "abcdefgh")
    assert tickets.token_of(url) == "abcdefgh"
    assert Tickets(Cipher(secret=SECRET)).token_of(url) == "abcdefgh"
    assert Tickets(Cipher()).token_of(url) is None
    ticket = url.query["ticket"]
    for wrong in ("", ".", "..", "x.y.z", ticket.replace("abcdefgh", "abcdefgi"), f"9{ticket}",
                  f"{ticket}0", "é.é.é", "9" * 5000):  # fmt: skip
        assert tickets.token_of(url.update_query(ticket=wrong)) is None
    clock.at += TICKET_LIFETIME
    assert tickets.token_of(url) is None
