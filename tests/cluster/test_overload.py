"""More is asked of a replica than its database can store: what only reads is answered, and what is
refused may be tried again."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import graphs
import psycopg
from cluster import load
from cluster.replicas import Servers, running_cluster
from stack import Client

from proxy.simulator import Simulator

#: Seconds for which nothing can be written to the table of jobs.
LOCKED = 6.0
#: Seconds in which a poll is answered meanwhile.
ANSWERED_WITHIN = 2.0
#: Clients that submit one job after another.
CLIENTS = 40


class Submitter:
    """Submits jobs, each under an id of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.taken: set[str] = set()
        self.answers: Counter[tuple[int, str]] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            prompt_id = str(uuid.uuid4())
            graph = graphs.plain(int(prompt_id[:6], 16), size=16)
            body = {"prompt": graph, "prompt_id": prompt_id}
            async with self.client.session.post(self.client.url / "prompt", json=body) as answer:
                found = await answer.json()
                if answer.status == 200:
                    self.taken.add(prompt_id)
                    self.answers[200, ""] += 1
                else:
                    assert int(answer.headers["Retry-After"]) > 0
                    self.answers[answer.status, found["error"]["type"]] += 1
                    await asyncio.sleep(0.2)


@asynccontextmanager
async def locked(address: str, mode: str = "SHARE") -> AsyncIterator[None]:
    """Let nobody write to the table of jobs, or read it, either, with `ACCESS EXCLUSIVE`."""
    async with await psycopg.AsyncConnection.connect(address) as connection:
        await connection.execute(f"LOCK TABLE jobs IN {mode} MODE")
        yield


async def test_polls_are_answered_and_what_is_shed_says_so(
    tmp_path: Path, servers: Servers, simulator: Simulator
) -> None:
    async with running_cluster(tmp_path, servers, simulator, count=1) as cluster:
        (replica,), client, stop = cluster.replicas, cluster.client(0), asyncio.Event()
        submitters = [Submitter(cluster.client(0)) for _ in range(CLIENTS)]
        slowest, readiness = (0.0, ""), Counter[int]()
        async with asyncio.TaskGroup() as tasks:
            for submitter in submitters:
                tasks.create_task(submitter.run(stop))
            await asyncio.sleep(1)
            async with locked(cluster.environment["COMFY_PROXY_DATABASE"]):
                until = time.monotonic() + LOCKED
                while time.monotonic() < until:
                    for path in ("queue", "history", "prompt"):
                        began = time.monotonic()
                        assert (await client.get(path))[0] == 200
                        slowest = max(slowest, (time.monotonic() - began, path))
                    readiness[(await cluster.readiness(replica))[0]] += 1
                    await asyncio.sleep(0.05)
            stop.set()
        answers = sum((submitter.answers for submitter in submitters), Counter())
        assert {kind for kind in answers if kind[0] != 200} == {(503, "busy")}
        assert set(readiness) == {200}
        assert slowest[0] < ANSWERED_WITHIN, slowest
        taken = {prompt_id for submitter in submitters for prompt_id in submitter.taken}
        async with asyncio.timeout(60):
            while set((await client.get("history"))[1]) != taken:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        load.only_these_ran(simulator, taken)


async def test_a_standby_that_is_elected_meanwhile_leads_once_it_can_read_the_jobs(
    tmp_path: Path, servers: Servers, simulator: Simulator
) -> None:
    async with running_cluster(tmp_path, servers, simulator, count=2) as cluster:
        leader, standby = await cluster.engine(), await cluster.standby()
        async with locked(cluster.environment["COMFY_PROXY_DATABASE"], "ACCESS EXCLUSIVE"):
            assert await leader.stop() == 0
            await asyncio.sleep(LOCKED)
            assert (await cluster.readiness(standby))[0] == 503
        assert await cluster.engine(but=leader) is standby
        client = cluster.client(cluster.number(standby))
        prompt_id = await client.submit(graphs.plain(1))
        assert (await client.ended(prompt_id))["status"]["completed"]
