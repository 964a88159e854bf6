"""The dashboard of a busy afternoon, for its picture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import graphs
from stack import running_proxy
from yarl import URL

from proxy.jobs.service import JobService
from proxy.members.directory import Directory
from proxy.members.member import Limits, Member
from proxy.simulator import Simulator

_MEMBERS = (
    Member("anna", role="admin"),
    Member("ben", limits=Limits(max_running=2)),
    Member("chiara", weight=2.0),
    Member("krita-studio", limits=Limits(jobs_per_day=200)),
    Member("night-bot", weight=0.5, limits=Limits(max_queued=50, deny_partner_nodes=True)),
)
_DONE = {"anna": 3, "ben": 5, "chiara": 9, "krita-studio": 6, "night-bot": 2}
_WAITING = {"ben": 2, "chiara": 2, "night-bot": 3}


async def _idle(jobs: JobService) -> None:
    while True:
        if not (await jobs.overview()).jobs:
            return
        await asyncio.sleep(0.05)


@asynccontextmanager
async def busy_gateway(folder: Path) -> AsyncIterator[tuple[URL, str]]:
    """Its address and the token of an admin."""
    directory = await Directory.open(folder)
    tokens = {}
    for member in _MEMBERS:
        await directory.add(member)
        tokens[member.name], _ = await directory.new_token(member.name, note="desk")
    await directory.close()
    async with (
        Simulator(plan="creator") as simulator,
        running_proxy(simulator, folder, slots=3, slots_ahead=0) as proxy,
        aiohttp.ClientSession() as session,
    ):

        async def post(member: str, graph: dict[str, object]) -> None:
            headers = {"Authorization": f"Bearer {tokens[member]}"}
            url = proxy.url / "prompt"
            async with session.post(url, json={"prompt": graph}, headers=headers) as answer:
                answer.raise_for_status()

        simulator.switches.pace = 0.05
        seed = 0
        for member, count in _DONE.items():
            for _ in range(count):
                seed += 1
                await post(member, graphs.sampled(seed, steps=10))
        await post("krita-studio", graphs.raising())
        await _idle(proxy.services.jobs)
        simulator.switches.pace = 0.5
        for member in ("anna", "krita-studio", "chiara"):
            seed += 1
            await post(member, graphs.sampled(seed, steps=30))
            await asyncio.sleep(1.5)
        for member, count in _WAITING.items():
            for _ in range(count):
                seed += 1
                await post(member, graphs.sampled(seed, steps=30))
        yield proxy.url, tokens["anna"]
