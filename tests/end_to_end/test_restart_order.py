"""A restart in the middle of the queue: the order is what it would have been, and nothing is lost.

The proxy is a process of its own, which is killed or asked to stop while its jobs run; the cloud
outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import gated
import graphs
import pytest
from process import Process, before, serving
from team import added, bearer
from yarl import URL

from proxy.members.member import Member
from proxy.simulator import Simulator, Switches

SUBMIT = "POST /api/prompt"
WEIGHTS = {"anna": 2.0, "ben": 1.0, "cleo": 1.0}
#: Whose jobs in which order, with numbers of their own.
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("anna", {}),
    ("anna", {"number": 40}),
    ("ben", {}),
    ("anna", {}),
    ("anna", {"front": True}),
    ("cleo", {"number": -1.5}),
    ("ben", {"front": True}),
    ("anna", {}),
    ("anna", {"number": 2}),
    ("cleo", {}),
    ("ben", {}),
    ("cleo", {"front": True}),
    ("anna", {}),
    ("ben", {"number": 0.5}),
    ("anna", {}),
    ("cleo", {}),
]

_ENDS = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass(frozen=True)
class Restart:
    """When the cloud has been called for the job `at`, in this way."""

    at: int
    by: Literal["SIGKILL", "SIGTERM"]


@dataclass
class Team:
    """The members' clients, which outlive the proxy too. Jobs have their place in `JOBS` as id."""

    session: aiohttp.ClientSession
    tokens: dict[str, str]
    url: URL = field(default_factory=URL)
    ends: Counter[str] = field(default_factory=Counter)

    async def send(self, member: str, at: int, prompt: dict[str, Any], **how: Any) -> None:
        body = {"prompt": prompt, "client_id": "c", "prompt_id": id_of(at), **how}
        async with self.session.post(
            self.url / "prompt", json=body, headers=bearer(self.tokens[member])
        ) as answer:
            assert answer.status == 200, await answer.text()

    async def listen(self, member: str) -> None:
        """Hear all ends, over a socket that is opened again and again."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                url = (self.url / "ws").with_query(clientId="c")
                async with self.session.ws_connect(url, headers=bearer(self.tokens[member])) as ws:
                    async for message in ws:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            event = json.loads(message.data)
                            if event["type"] in _ENDS:
                                self.ends[event["data"]["prompt_id"]] += 1
            await asyncio.sleep(0.05)

    async def statuses(self) -> dict[str, str]:
        """How the jobs of all members have ended, by their ids."""
        found: dict[str, str] = {}
        for token in self.tokens.values():
            async with self.session.get(self.url / "history", headers=bearer(token)) as answer:
                history = await answer.json()
            found |= {id_: entry["status"]["status_str"] for id_, entry in history.items()}
        return found

    async def until_all_ended(self) -> dict[str, str]:
        async with asyncio.timeout(60):
            while len(found := await self.statuses()) <= len(JOBS):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found


def id_of(at: int) -> str:
    return str(uuid.UUID(int=at))


async def order_with(folder: Path, *restarts: Restart) -> list[int]:
    """The places in `JOBS` in the order in which the cloud got the jobs."""
    opened = asyncio.Event()
    async with (
        Simulator(
            switches=Switches(cache_nodes=False), extra_nodes=[gated.gate(opened)]
        ) as simulator,
        aiohttp.ClientSession() as session,
    ):
        members = [Member(name, weight=weight) for name, weight in WEIGHTS.items()]
        team = Team(session, await added(folder, members))
        listening: list[asyncio.Task[None]] = []

        async def first(process: Process) -> None:
            team.url = process.url
            await team.send("anna", len(JOBS), gated.GRAPH)
            listening.extend(asyncio.create_task(team.listen(member)) for member in WEIGHTS)
            for at, (member, how) in enumerate(JOBS):
                await team.send(member, at, graphs.plain(at, size=8), **how)
            assert len(simulator.jobs) == 1, "what has no slot waits with us"
            opened.set()

        try:
            await through(simulator, folder, team, first, restarts)
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
        marks = [job.extra_data["comfy_cloud_proxy"] for job in simulator.jobs.values()]
    assert all(count == 1 for count in team.ends.values()), "an end was told twice"
    return [uuid.UUID(mark.split("/")[1]).int for mark in marks][1:]


async def through(
    simulator: Simulator,
    folder: Path,
    team: Team,
    first: Callable[[Process], Any],
    restarts: tuple[Restart, ...],
) -> None:
    """Run the proxy, restart it, and run it until all jobs have ended."""
    options = ("--slots", "1")
    begun = False
    for restart in (*restarts, None):
        async with serving(folder, *options, environment=before(simulator)) as process:
            team.url = process.url
            if not begun:
                await first(process)
                begun = True
            if restart is None:
                statuses = await team.until_all_ended()
                assert set(statuses.values()) == {"success"}
                assert await process.stop() == 0
                return
            # With replicas the lease of the one that was killed runs out first.
            await simulator.wait_for_calls(SUBMIT, restart.at, timeout=60)
            if restart.by == "SIGKILL":
                await process.kill()
            else:
                assert await process.stop() == 0


@pytest.mark.timeout(180)
async def test_a_restart_changes_no_order_and_loses_no_turn(tmp_path: Path) -> None:
    usual, killed, stopped = await asyncio.gather(
        order_with(tmp_path / "usual"),
        order_with(tmp_path / "killed", Restart(4, "SIGKILL"), Restart(10, "SIGKILL")),
        order_with(tmp_path / "stopped", Restart(6, "SIGTERM")),
    )
    assert sorted(usual) == list(range(len(JOBS))), "each job went to the cloud once"
    assert killed == usual
    assert stopped == usual
