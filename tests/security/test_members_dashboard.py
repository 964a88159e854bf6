"""A member who looks at the dashboard very many times at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from backend import open_database
from security.attack import MEMBER, Target

from proxy.jobs.conversion import entry_of, payload_of, stored_of
from proxy.jobs.models import Job, JobContent, JobEnd
from proxy.storage.jobs import JobRepository

#: Jobs of the attacker, more than are shown at once.
JOBS = 250
#: Jobs that are listed, the nodes of each, and how often so many connections ask for the list.
LISTED, NODES, ROUNDS, CONNECTIONS = 100, 400, 3, 100
#: Streams that each member may have.
FEW = 100
#: Seconds of an attack: each job of Bob is news for all streams.
LASTS = 4.0


class Sink(asyncio.Protocol):
    """The client's end of a connection, which reads and drops what comes."""

    #: Bytes that have come.
    size = 0

    def data_received(self, data: bytes) -> None:
        self.size += len(data)


async def stream(target: Target) -> tuple[asyncio.Transport, Sink]:
    """A stream of the dashboard's events that is read."""
    token = target.tokens["eve"]
    head = f"GET /proxy/api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    transport, sink = await asyncio.get_running_loop().create_connection(
        Sink, target.url.host, target.url.port
    )
    transport.write(head.encode())
    return transport, sink


async def fill_queue(target: Target) -> None:
    """Let jobs of Eve take all slots, and more of them wait."""
    job: dict[str, Any] = {"prompt": graphs.waiting(600)}
    connector = aiohttp.TCPConnector(limit=8)
    async with aiohttp.ClientSession(headers=target.bearer(), connector=connector) as session:

        async def submit() -> None:
            async with session.post(target.url / "prompt", json=job) as answer:
                assert answer.status == 200, await answer.text()

        await asyncio.gather(*(submit() for _ in range(JOBS)))


@pytest.mark.parametrize("count", [200, 1000])
async def test_many_streams_of_events(target: Target, count: int) -> None:
    await fill_queue(target)
    async with target.attacked_by(MEMBER, graph=graphs.plain()):
        opened = await asyncio.gather(*(stream(target) for _ in range(count)))
        await asyncio.sleep(LASTS)
    assert all(sink.size for _, sink in opened[:FEW])
    for transport, _ in opened:
        transport.abort()


async def add_ended_jobs(folder: Path) -> None:
    """Add ended jobs of Eve with large graphs, as engines write them."""
    database = await open_database(folder)
    repository = JobRepository(database)
    times = {f"node {number}": (number, 10) for number in range(NODES)}
    content = JobContent(dict.fromkeys(times, graphs.plain()["1"]), {})
    for number in range(LISTED):
        job = Job(f"job {number}", "eve", number, content, None, created_at=number)
        job.order = (await repository.insert(stored_of(job), payload_of(content))).order
        end = JobEnd("completed", {}, {"messages": []}, {}, number, number + 10, node_times=times)
        await repository.finish(entry_of(job, end)[0], keep=1000)
    await database.close()


async def listed(target: Target, session: aiohttp.ClientSession) -> int:
    """How many ended jobs the list has."""
    url = target.url / "proxy/api/jobs" % {"limit": LISTED}
    async with session.get(url) as answer:
        return len((await answer.json())["jobs"]) if answer.status == 200 else 0


async def test_many_lists_of_large_jobs(target: Target, tmp_path: Path) -> None:
    await add_ended_jobs(tmp_path / "data")
    await fill_queue(target)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(headers=target.bearer(), connector=connector) as session,
        target.attacked_by(MEMBER, graph=graphs.plain()),
    ):
        for _ in range(ROUNDS):
            answers = await asyncio.gather(*(listed(target, session) for _ in range(CONNECTIONS)))
            assert max(answers) == LISTED
