"""Replicas as operators run them: processes of their own over real servers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cluster.forwarder import Ways, ways_of
from process import Process, before, command, serving
from servers import Postgresql, free_port
from stack import Client
from team import bearer
from waiting import running
from yarl import URL

from proxy.simulator import Simulator

#: No state that must come needs longer, however busy the machine.
TIMEOUT = 60.0
#: Where a Python finds a clock that is wrong.
SKEWED = Path(__file__).parent / "skewed"


@dataclass
class Servers:
    """What replicas share; one of each for all tests of a process."""

    postgresql: Postgresql
    _names: Any = field(default_factory=itertools.count)

    def settings(self) -> dict[str, str]:
        """The settings of replicas with an empty database of their own."""
        return {"COMFY_PROXY_DATABASE": self.postgresql.create(f"test-{next(self._names)}")}


@dataclass(eq=False)
class Replica:
    """One process, on a port that it keeps when it is started again."""

    port: int
    folder: Path
    environment: dict[str, str]
    options: Sequence[str] = ()
    process: Process | None = None
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> URL:
        return URL(f"http://127.0.0.1:{self.port}")

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        running = serving(self.folder, *self.options, environment=self.environment, port=self.port)
        self.process = await self._running.enter_async_context(running)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        code = await self.process.stop()
        await self.close()
        return code

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        await self.process.kill()
        await self.close()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def close(self) -> None:
        """Kill it if it still runs."""
        await self._running.aclose()
        self.process = None

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        assert self.process is not None
        lines = [line for line in self.process.said if line.startswith(b"{")]
        return [json.loads(line) for line in lines]

    def _signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.process.pid, which)


@dataclass
class Person:
    """Somebody with a token, and one client of theirs at each replica."""

    name: str
    token: str
    session: aiohttp.ClientSession
    clients: list[Client]


@dataclass
class Cluster:
    """Replicas with one database, one folder of blobs and one cloud.

    Where there are members, `session` is that of `admin`, whose token is `admin_token`.
    """

    simulator: Simulator
    session: aiohttp.ClientSession
    replicas: list[Replica]
    environment: dict[str, str]
    admin_token: str = ""
    ways: list[Ways] = field(default_factory=list)
    _names: Any = field(default_factory=itertools.count)

    def client(self, number: int, client_id: str | None = None) -> Client:
        """A client that asks one replica."""
        client = Client(self.session, self.replicas[number].url)
        if client_id is not None:
            client.client_id = client_id
        return client

    def clients(self) -> list[Client]:
        """One client, at each replica."""
        first = self.client(0)
        return [self.client(number, first.client_id) for number in range(len(self.replicas))]

    async def token(self, member: str) -> tuple[str, str]:
        """A new token of a member, which every replica knows, and its id."""
        status, made = await self.client(0).post("proxy/api/tokens", {"member": member})
        assert status == 201, made
        for number in range(len(self.replicas)):
            async with asyncio.timeout(TIMEOUT):
                client = self.client(number)
                while made["id"] not in str(await client.get("proxy/api/tokens")):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        return made["token"], made["id"]

    @asynccontextmanager
    async def person(self, **limits: Any) -> AsyncIterator[Person]:
        """A new member, whom every replica knows; whatever is left of it is cancelled."""
        name = f"member-{next(self._names)}"
        admin = self.client(0)
        status, answer = await admin.post("proxy/api/members", {"name": name, "limits": limits})
        assert status in (200, 201), answer
        token, _ = await self.token(name)
        async with aiohttp.ClientSession(headers=bearer(token)) as session:
            first = Client(session, self.replicas[0].url)
            clients = [Client(session, replica.url, first.client_id) for replica in self.replicas]
            yield Person(name, token, session, clients)
            await first.post("queue", {"clear": True})
            await first.post("api/jobs/cancel", {"job_ids": await running(first)})

    async def readiness(self, replica: Replica) -> tuple[int, dict[str, Any]]:
        """What `/readyz` of a replica says; 0 if it does not answer within 2 s."""
        timeout = aiohttp.ClientTimeout(total=2)
        try:
            async with self.session.get(replica.url / "readyz", timeout=timeout) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return 0, {}

    async def engine(self, *, but: Replica | None = None, within: float = TIMEOUT) -> Replica:
        """The replica whose engine is active and takes jobs, one other than `but`."""
        async with asyncio.timeout(within):
            while True:
                for replica in self.replicas:
                    if replica is not but and replica.process is not None:
                        status, report = await self.readiness(replica)
                        if status == 200 and report["engine"] == "active":
                            return replica
                await asyncio.sleep(0.05)

    async def standby(self) -> Replica:
        """A replica whose engine is not active."""
        engine = await self.engine()
        return next(replica for replica in self.replicas if replica is not engine)

    def number(self, replica: Replica) -> int:
        return self.replicas.index(replica)

    async def until_ready(self) -> None:
        """Wait until every replica that runs takes jobs."""
        await self.engine()
        await asyncio.gather(
            *(self.is_ready(replica) for replica in self.replicas if replica.process is not None)
        )

    async def is_ready(self, replica: Replica, *, within: float = TIMEOUT) -> None:
        """Wait until a replica takes jobs."""
        async with asyncio.timeout(within):
            while (await self.readiness(replica))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def command(self, *words: str) -> str:
        """Run a command with the settings of the replicas; what it wrote."""
        code, out, err = await command(*words, environment={**os.environ, **self.environment})
        assert code == 0, (out, err)
        return out


@asynccontextmanager
async def running_cluster(
    folder: Path,
    servers: Servers,
    simulator: Simulator,
    *,
    count: int = 3,
    options: Sequence[str] = (),
    members: bool = False,
    forwarded: bool = False,
    skews: Sequence[int] = (),
    modules: Path | None = None,
    **settings: str,
) -> AsyncIterator[Cluster]:
    """So many replicas, ready, killed behind the block; with `members`, they have an admin, and if
    `forwarded` each reaches each server by a way of its own. The clocks of the first ones are wrong
    by `skews`, in seconds. Their Python finds `modules` before all others."""
    environment = {
        **before(simulator),
        **servers.settings(),
        "COMFY_PROXY_BLOBS": str(folder / "blobs"),
        "COMFY_PROXY_LOG_FORMAT": "json",
        **{f"COMFY_PROXY_{name.upper()}": value for name, value in settings.items()},
    }
    async with AsyncExitStack() as stack:
        replicas, all_ways = [], []
        for number in range(count):
            own = environment
            if forwarded:
                ways, own = await stack.enter_async_context(ways_of(environment))
                all_ways.append(ways)
            if modules is not None:
                own = {**own, "PYTHONPATH": str(modules)}
            if number < len(skews):
                clock = {"PYTHONPATH": str(SKEWED), "TEST_CLOCK_SKEW": str(skews[number])}
                own = {**own, **clock}
            replicas.append(Replica(free_port(), folder / f"replica-{number}", own, options))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        cluster = Cluster(simulator, session, replicas, environment, ways=all_ways)
        if members:
            await cluster.command("member", "add", "admin", "--role", "admin")
            cluster.admin_token = (await cluster.command("token", "new", "admin")).split()[0]
            session.headers.update(bearer(cluster.admin_token))
        for replica in replicas:
            stack.push_async_callback(replica.close)
        await asyncio.gather(*(replica.start() for replica in replicas))
        await cluster.until_ready()
        yield cluster


async def until_refused(client: Client, *, within: float) -> None:
    """Ask until the client is let in no more; 429 is for those who have asked too often."""
    async with asyncio.timeout(within):
        while (await client.get("queue"))[0] not in (401, 429):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
