"""PostgreSQL is away for half a minute: requests are refused, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from aiohttp import WSCloseCode
from cluster import load
from cluster.replicas import Cluster, Servers, running_cluster
from stack import TIMEOUT, Client, Listener

from proxy.simulator import Simulator, Switches

#: Seconds without it.
AWAY = 30.0
#: Seconds in which a request that needs it is refused.
REFUSED_WITHIN = 3.0
#: Seconds in which new jobs start when it is back.
BACK_WITHIN = 15.0


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def simulator(gate: asyncio.Event) -> AsyncIterator[Simulator]:
    switches = Switches(cache_nodes=False)
    async with Simulator(plan="pro", switches=switches, extra_nodes=[gated.gate(gate)]) as running:
        yield running


@pytest.fixture
async def cluster(tmp_path: Path, servers: Servers, simulator: Simulator) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path, servers, simulator, members=True) as running:
        yield running


class Asking:
    """Asks a replica for this and that; `refused` are submissions that will never run, `taken`
    those that run."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answers: Counter[tuple[str, int]] = Counter()
        self.slowest = (0.0, "")
        self.refused: set[str] = set()
        self.taken: set[str] = set()

    async def round(self) -> None:
        """One request of each kind, and whether it was answered as it must be."""
        await asyncio.gather(
            self._submit(),
            self._ask("GET", "history"),
            self._ask("GET", "queue"),
            self._ask("GET", "api/jobs"),
            self._ask("POST", "history", {"delete": [str(uuid.uuid4())]}),
            self._ask("GET", "settings"),
            self._ask("POST", "settings", {"a": 1}),
            self._ask("GET", "api/assets"),
            self._ask("GET", "proxy/api/state"),
            self._ask("GET", "proxy/api/audit"),
        )

    async def _submit(self) -> None:
        prompt_id = str(uuid.uuid4())
        body = {"prompt": graphs.plain(int(prompt_id[:6], 16)), "prompt_id": prompt_id}
        status = await self._ask("POST", "prompt", body)
        (self.taken if status == 200 else self.refused).add(prompt_id)

    async def _ask(self, method: str, path: str, body: Any = None) -> int:
        began = time.monotonic()
        url = self.client.url / path
        async with self.client.session.request(method, url, json=body) as answer:
            text = await answer.text()
        self.slowest = max(self.slowest, (time.monotonic() - began, f"{method} {path}"))
        assert answer.status in (200, 503, 504), (method, path, answer.status, text)
        if answer.status != 200:
            assert int(answer.headers["Retry-After"]) > 0
        self.answers[f"{method} {path}", answer.status] += 1
        return answer.status


@pytest.mark.parametrize("outage", ["stopped", "frozen"])
async def test_requests_are_refused_and_nothing_is_lost(
    cluster: Cluster,
    servers: Servers,
    simulator: Simulator,
    gate: asyncio.Event,
    outage: str,
) -> None:
    postgresql = servers.postgresql.server
    clients = [cluster.client(number) for number in range(3)]
    asking = [Asking(cluster.client(number)) for number in range(3)]
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(client.listening()) for client in clients]
        prompt_ids = [await client.submit(gated.GRAPH) for client in clients]
        for listener in listeners:
            await listener.until("executing", node="1")
        if outage == "stopped":
            await asyncio.to_thread(postgresql.stop)
        else:
            postgresql.freeze()
        try:
            until = time.monotonic() + AWAY
            gate.set()  # the jobs end on the cloud meanwhile
            while time.monotonic() < until:
                await asyncio.gather(*(asker.round() for asker in asking))
                await asyncio.sleep(0.2)
            for replica in cluster.replicas:
                status, report = await cluster.readiness(replica)
                assert status == 503
                assert "database" in str(report)
            for asker in asking:
                assert asker.answers["POST prompt", 503] > 0
                assert asker.slowest[0] < REFUSED_WITHIN, asker.slowest
        finally:
            if outage == "stopped":
                await asyncio.to_thread(postgresql.start)
            else:
                postgresql.thaw()
        for listener in listeners:
            assert await close_code(listener) == WSCloseCode.SERVICE_RESTART
        async with asyncio.timeout(BACK_WITHIN):
            await cluster.until_ready()
            listeners = [await heard_again(client, stack) for client in clients]
            late = [await until_taken(client) for client in clients]
            for listener, prompt_id in zip(listeners, late, strict=True):
                await listener.until("execution_start", prompt_id=prompt_id)
        for listener, prompt_id in zip(listeners, late, strict=True):
            await listener.until("executing", prompt_id=prompt_id, node=None)
            messages = [
                (type_, data)
                for type_, data in listener.received
                if type_ not in ("status", "binary") and data.get("prompt_id") == prompt_id
            ]
            load.check_end(messages)
    taken = {prompt_id for asker in asking for prompt_id in asker.taken}
    expected = {*prompt_ids, *late, *taken}
    async with asyncio.timeout(60):
        while not expected <= set((await clients[0].get("history"))[1]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for client in clients:
        assert set((await client.get("history"))[1]) == expected
    load.only_these_ran(simulator, expected)
    assert len(simulator.sockets) == 1


async def heard_again(client: Client, stack: AsyncExitStack) -> Listener:
    """Open a socket that stays: connections of the term before are closed now."""
    while True:
        try:
            return await stack.enter_async_context(client.listening())
        except ConnectionError:
            await asyncio.sleep(0.1)


async def close_code(listener: Listener) -> int:
    """Read until the socket is closed."""
    async with asyncio.timeout(TIMEOUT):
        while (message := await listener.socket.receive()).type is not aiohttp.WSMsgType.CLOSE:
            assert message.type is not aiohttp.WSMsgType.CLOSED
    return message.data


async def until_taken(client: Client) -> str:
    """Submit until it is taken; the id."""
    while True:
        body = {"prompt": graphs.plain(5), "client_id": client.client_id}
        try:
            status, answer = await client.post("prompt", body)
        except aiohttp.ClientError:
            raise AssertionError("a connection broke") from None
        if status == 200:
            return str(answer["prompt_id"])
        assert status == 503, answer
        await asyncio.sleep(0.2)
