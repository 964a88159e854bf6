"""Members of unequal greed on one account: whose turn it is, and that nobody hears of another.

`make load` is the long run, with clocks.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import gated
import pytest
from stack import TIMEOUT, running_proxy
from team import bearer
from yarl import URL

from proxy.api.keys import MEMBERS
from proxy.members.member import Member
from proxy.simulator import Simulator, Switches

SLOTS = 5
#: How many jobs each member sends. The first one's gates keep the slots until all jobs wait.
GREED = {"m0": 50, "m1": 20, "m2": 15, "m3": 10, "m4": 10, "m5": 5, "m6": 3, "m7": 1}
_ENDS = {"execution_success", "execution_error", "execution_interrupted"}


def graph(marker: str, number: int) -> dict[str, Any]:
    """A picture, with its member's marker in the node ids and the file's name."""
    inputs = {"width": 8, "height": 8, "batch_size": 1, "color": number}
    return {
        f"{marker}-1": {"class_type": "EmptyImage", "inputs": inputs},
        f"{marker}-2": {
            "class_type": "SaveImage",
            "inputs": {"images": [f"{marker}-1", 0], "filename_prefix": marker},
        },
    }


@dataclass
class Teammate:
    """A member's client; what it has sent and heard."""

    name: str
    token: str
    url: URL
    session: aiohttp.ClientSession
    ids: set[str] = field(default_factory=set)
    received: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def marker(self) -> str:
        return f"zq{self.name[1:]}zq"

    async def send(self, prompt: dict[str, Any]) -> None:
        body = {"prompt": prompt, "client_id": "shared"}
        async with self.session.post(
            self.url / "prompt", json=body, headers=bearer(self.token)
        ) as answer:
            parsed = await answer.json()
            assert answer.status == 200, parsed
        self.ids.add(parsed["prompt_id"])

    async def send_all(self, count: int) -> None:
        await asyncio.gather(*(self.send(graph(self.marker, number)) for number in range(count)))

    async def listen(self) -> None:
        url = (self.url / "ws").with_query(clientId="shared")
        async with self.session.ws_connect(url, headers=bearer(self.token)) as socket:
            async for message in socket:
                self.opened.set()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                self.received.append(message.data)
                parsed = json.loads(message.data)
                if parsed["type"] in _ENDS:
                    self.ends[parsed["data"]["prompt_id"]] += 1
                    self.changed.set()

    async def until_ended(self) -> None:
        async with asyncio.timeout(60):
            while not self.ids <= self.ends.keys():
                self.changed.clear()
                await self.changed.wait()

    def check(self) -> None:
        """Each job ended once, and nothing was heard of another member's."""
        assert self.ends == Counter(self.ids)
        for text in self.received:
            assert set(re.findall(r"zq\dzq", text)) <= {self.marker}, text
            assert json.loads(text)["data"].get("prompt_id") in {None, *self.ids}, text


@dataclass
class Office:
    """Eight members before one account, and the gate that keeps its slots."""

    simulator: Simulator
    opened: asyncio.Event
    people: dict[str, Teammate]

    async def fill_slots(self) -> None:
        """From here on nothing ends; every other job waits."""
        self.opened.clear()
        for _ in range(SLOTS):
            await self.people["m0"].send(gated.GRAPH)

    def order(self) -> list[str]:
        """The members in the order in which the cloud got their jobs."""
        return [
            job.extra_data["comfy_cloud_proxy"].split("/")[0]
            for job in self.simulator.jobs.values()
        ]


@pytest.fixture
async def office(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Office]:
    opened = asyncio.Event()
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(
            Simulator(
                plan="pro",
                switches=Switches(cache_nodes=False),
                extra_nodes=[gated.gate(opened)],
            )
        )
        proxy = await stack.enter_async_context(
            running_proxy(
                simulator,
                tmp_path / "data",
                policy={"client_parallelism": "many"},
                slots=SLOTS,
            )
        )
        directory = proxy.services[MEMBERS]
        people = {}
        for name in GREED:
            await directory.add(Member(name))
            token, _ = await directory.new_token(name)
            people[name] = Teammate(name, token, proxy.url, session)
        listening = [asyncio.create_task(person.listen()) for person in people.values()]
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(person.opened.wait() for person in people.values()))
        yield Office(simulator, opened, people)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


def check_turns(order: list[str], waiting: dict[str, int]) -> None:
    """While several wait, none is more than a turn ahead of another.

    Jobs of one moment may overtake one another on their way, which is one turn more.
    """
    had: Counter[str] = Counter()
    for number, member in enumerate(order):
        had[member] += 1
        still = [had[name] for name, count in waiting.items() if had[name] < count]
        assert max(still, default=0) - min(still, default=0) <= 2, (number, had)
    assert had == waiting


@pytest.mark.timeout(300)
async def test_greed_gives_nobody_more_turns(office: Office) -> None:
    await office.fill_slots()
    await asyncio.gather(*(office.people[name].send_all(count) for name, count in GREED.items()))
    assert len(office.order()) == SLOTS, "everything else waits with us"
    office.opened.set()
    await asyncio.gather(*(person.until_ended() for person in office.people.values()))
    check_turns(office.order()[SLOTS:], GREED)
    for person in office.people.values():
        person.check()
    assert len(office.simulator.jobs) == SLOTS + sum(GREED.values())


@pytest.mark.timeout(300)
async def test_who_comes_late_is_served_among_the_others(office: Office) -> None:
    early, late = ("m0", "m1"), ("m2", "m3")
    await office.fill_slots()
    await asyncio.gather(*(office.people[name].send_all(12) for name in early))
    office.opened.set()
    await asyncio.gather(*(office.people[name].until_ended() for name in early))
    before = len(office.order())
    await office.fill_slots()
    await asyncio.gather(*(office.people[name].send_all(12) for name in (*early, *late)))
    office.opened.set()
    await asyncio.gather(*(person.until_ended() for person in office.people.values()))
    check_turns(office.order()[before + SLOTS :], dict.fromkeys((*early, *late), 12))
    for person in office.people.values():
        person.check()
