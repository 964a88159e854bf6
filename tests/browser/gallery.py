"""The dashboard of a busy afternoon, for its pictures and for tests of all that it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import graphs
from databases import FolderDirectory
from stack import running_proxy
from yarl import URL

from proxy.api.keys import JOBS
from proxy.jobs.service import JobService
from proxy.members.member import Limits, Member
from proxy.simulator import Simulator

_MEMBERS = (
    Member("anna", role="admin"),
    Member("ben", limits=Limits(max_running=2)),
    Member("chiara", weight=2.0),
    Member("krita-studio", limits=Limits(jobs_per_day=200)),
    Member("night-bot", weight=0.5, limits=Limits(max_queued=50, deny_partner_nodes=True)),
)
_DONE = {"anna": 2, "ben": 3, "chiara": 4, "krita-studio": 3, "night-bot": 2}
_WAITING = {"ben": 2, "night-bot": 2}
_NAMES = ("Portrait study", "Night market", "Product shots", "Sky replacement", None)


async def _idle(jobs: JobService) -> None:
    while jobs.overview().jobs:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


@asynccontextmanager
async def busy_gateway(folder: Path) -> AsyncIterator[tuple[URL, dict[str, str]]]:
    """Its address and the tokens of its members; anna is an admin."""
    directory = await FolderDirectory.open(folder)
    tokens = {}
    for member in _MEMBERS:
        await directory.add(member)
        tokens[member.name], _ = await directory.new_token(member.name, note="workstation")
    await directory.new_token("chiara", note="Krita on the laptop", lifetime=80 * 86_400)
    await directory.close()
    async with (
        Simulator(plan="creator") as simulator,
        running_proxy(simulator, folder, slots=3) as proxy,
        aiohttp.ClientSession() as session,
    ):

        async def post(member: str, graph: dict[str, Any], name: str | None = None) -> None:
            headers = {"Authorization": f"Bearer {tokens[member]}"}
            workflow = {} if name is None else {"workflow_name": name}
            body = {"prompt": graph, "extra_data": workflow}
            async with session.post(proxy.url / "prompt", json=body, headers=headers) as answer:
                answer.raise_for_status()

        simulator.switches.pace = 0.02
        seed = 0
        for member, count in _DONE.items():
            for _ in range(count):
                seed += 1
                name = _NAMES[seed % len(_NAMES)]
                await post(member, graphs.sampled(seed, steps=12, size=512), name)
        await post("krita-studio", graphs.raising(), "Upscale test")
        await _idle(proxy.services[JOBS])
        simulator.switches.pace = 0.5
        for member in ("anna", "krita-studio", "chiara"):
            seed += 1
            await post(member, graphs.sampled(seed, steps=30), _NAMES[seed % len(_NAMES)])
            await asyncio.sleep(1.5)
        for member, count in _WAITING.items():
            for _ in range(count):
                seed += 1
                await post(member, graphs.sampled(seed, steps=30), _NAMES[seed % len(_NAMES)])
        yield proxy.url, tokens
