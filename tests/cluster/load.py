"""Clients that go on while replicas come and go, and what each of their sockets was told."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import graphs
from chaos.accounting import prompt_id_of
from cluster.replicas import TIMEOUT, Cluster
from stack import Client, Listener

from proxy.simulator import Simulator

_colors = itertools.count(1000)
#: The types of refusals behind which a client submits again: the job never runs.
_NOT_TAKEN = ("store_unavailable", "busy", "submission_withdrawn")
ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Runner:
    """One client: it submits at one replica a job after another, and listens at another replica on
    one socket that stays open. `told_at` is when it was told each end (seconds since 1970). With
    `repeats` it submits again what was refused and never runs, as the documents say."""

    client: Client
    listener: Listener
    repeats: bool = False
    submitted: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    told_at: dict[str, float] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self) -> None:
        """Read until cancelled, or until the socket ends, which is a failure."""
        while True:
            message = await self.listener.socket.receive()
            if message.type.name == "TEXT":
                event = message.json()
                self.listener.received.append((event["type"], event["data"]))
                if event["type"] == "executing" and event["data"]["node"] is None:
                    self.ended.add(event["data"]["prompt_id"])
                    self.told_at[event["data"]["prompt_id"]] = time.time()
                    self._news.set()
            elif message.type.name != "BINARY":
                raise ConnectionError(f"the socket ended: {message}")

    async def run(self, stop: asyncio.Event) -> None:
        """Run jobs until `stop`, each to its end."""
        while not stop.is_set():
            self.submitted.append(await self._submit(graphs.sampled(next(_colors), steps=5)))
            await self.all_ended()

    async def _submit(self, graph: dict[str, Any]) -> str:
        body = {"prompt": graph, "client_id": self.client.client_id}
        async with asyncio.timeout(TIMEOUT):
            while True:
                body["prompt_id"] = str(uuid.uuid4())
                status, answer = await self.client.post("prompt", body)
                if status == 200:
                    return str(answer["prompt_id"])
                assert self.repeats, answer
                if answer["error"]["type"] == "submission_unanswered":
                    if await self._is_taken(body["prompt_id"]):
                        return str(body["prompt_id"])
                    continue
                assert status == 503, answer
                assert answer["error"]["type"] in _NOT_TAKEN, answer
                await asyncio.sleep(0.1)

    async def _is_taken(self, prompt_id: str) -> bool:
        """Wait until a job has ended, or is gone, of which the cloud did not say whether it runs.

        The first of the queue is shown as `in_progress`, also while it is looked for.
        """
        while True:
            status, job = await self.client.get(f"api/jobs/{prompt_id}")
            if status != 200 or job["status"] not in ("pending", "in_progress"):
                return status == 200
            await asyncio.sleep(0.1)

    async def all_ended(self) -> None:
        """Wait until the socket has been told every end."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while not self.ended.issuperset(self.submitted):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            missing = set(self.submitted) - self.ended
            known = {
                prompt_id: (await self.client.get(f"api/jobs/{prompt_id}"))[1]
                for prompt_id in missing
            }
            states = {prompt_id: job.get("status") for prompt_id, job in known.items()}
            raise AssertionError(f"the socket was not told the end of {states}") from None

    def check(self, *, only_ends: bool = False) -> None:
        """Each job had one life on the socket; with `only_ends` it had one end, and a next leader
        may have told what was before it again."""
        lives: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
        for type_, data in self.listener.received:
            if "prompt_id" in data:
                lives[data["prompt_id"]].append((type_, data))
        assert set(lives) == set(self.submitted)
        for life in lives.values():
            (check_end if only_ends else check_life)(life)


def check_life(life: Sequence[tuple[str, Any]]) -> None:
    """A job was told in order, with one start, each output once and one end."""
    types = [type_ for type_, _ in life]
    assert types[0] == "execution_start", types
    executed = Counter(data["node"] for type_, data in life if type_ == "executed")
    assert executed == {"9": 1}, types
    for type_ in ("execution_start", "execution_cached"):
        assert types.count(type_) == 1, types
    check_end(life)


def check_end(life: Sequence[tuple[str, Any]]) -> None:
    """A job had one end, last."""
    types = [type_ for type_, _ in life]
    assert sum(types.count(end) for end in ENDS) == 1, types
    assert (types[-1], life[-1][1]["node"]) == ("executing", None), types
    assert types[-2] in ENDS, types
    nulls = [data for type_, data in life if type_ == "executing" and data["node"] is None]
    assert len(nulls) == 1, types


@asynccontextmanager
async def load(
    submitting: Sequence[Client], listening: Sequence[Client], *, repeats: bool = False
) -> AsyncIterator[tuple[list[Runner], asyncio.Event]]:
    """A runner for each pair of these; the event ends the load, and so does the block.

    What fails in a runner fails the block.
    """
    stop = asyncio.Event()
    runners: list[Runner] = []
    async with asyncio.TaskGroup() as hearing:
        async with asyncio.TaskGroup() as running:
            opened = []
            tasks = []
            for client, ears in zip(submitting, listening, strict=True):
                listener = ears.listening(client_id=client.client_id)
                opened.append(listener)
                runner = Runner(client, await listener.__aenter__(), repeats)
                runners.append(runner)
                tasks.append(hearing.create_task(runner.hear()))
                running.create_task(runner.run(stop))
            yield runners, stop
            stop.set()
        for task in tasks:
            task.cancel()
    for listener in opened:
        await listener.__aexit__(None, None, None)


def submitted_by(runners: Sequence[Runner]) -> list[str]:
    """The ids of all their jobs."""
    return [prompt_id for runner in runners for prompt_id in runner.submitted]


async def one_more(runners: Sequence[Runner], count: int = 1) -> None:
    """Wait until each has been told so many more ends."""
    ended = [len(runner.ended) for runner in runners]
    async with asyncio.timeout(TIMEOUT):
        while any(  # noqa: ASYNC110
            len(runner.ended) < before + count
            for runner, before in zip(runners, ended, strict=True)
        ):
            await asyncio.sleep(0.02)


async def check_records(cluster: Cluster, submitted: Sequence[str]) -> None:
    """Nothing was lost or doubled: one job of the cloud for each, and one entry everywhere."""
    only_these_ran(cluster.simulator, submitted)
    for replica in cluster.replicas:
        if replica.process is not None:
            history = (await cluster.client(cluster.number(replica)).get("history"))[1]
            assert sorted(history) == sorted(submitted)
            assert all(entry["status"]["completed"] for entry in history.values())
            items = [entry["outputs"]["9"]["images"][0] for entry in history.values()]
            assert len({item["filename"] for item in items}) == len(items)


def only_these_ran(simulator: Simulator, prompt_ids: Iterable[str]) -> None:
    """The cloud has had each of these jobs once, and no other."""
    on_the_cloud = Counter(prompt_id_of(job.extra_data) for job in simulator.jobs.values())
    assert on_the_cloud == Counter(prompt_ids)
