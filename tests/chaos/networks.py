"""Chaos with three replicas whose networks are half lost, and the same accounting.

    PYTHONPATH=tests python -m chaos.networks --jobs 60 --clients 12 --kills 15 [--seed N]

Each replica reaches each server by a way of its own, which is cut, reset, or turned into a hole.
Each client has its socket at one replica all the time, and asks all of them: a socket that was open
all the time must have been told each job's whole life. It goes on until each disturbance has been.
Ends with 1 if a number that should be zero is not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial

import psycopg
from chaos.replicas import Disturbance, ReplicaChaos
from chaos.run import main
from cluster.forwarder import Forwarder, Ways
from cluster.replicas import Cluster, Replica, Servers
from servers import connections
from yarl import URL

#: Connections of a replica to PostgreSQL, as documented.
CONNECTIONS = 12
#: Seconds of a disturbance: shorter and longer than what is noticed.
SHORT, LONG = 4.0, 12.0

Way = Callable[[Ways], Forwarder]


class NetworkChaos(ReplicaChaos):
    """A run in which networks are lost in part."""

    forwarded = True

    def listens_at(self, number: int) -> URL:
        """The same replica each time."""
        if self._cluster is None:
            return URL("http://127.0.0.1:1")
        return self._cluster.replicas[number % len(self._cluster.replicas)].url

    def is_over(self) -> bool:
        """Whether there have been all disturbances."""
        return self.done.total() >= self._kills

    def kinds(self, servers: Servers) -> dict[str, Disturbance]:
        """All disturbances by their names."""
        return {
            "cloud: hole at the engine": partial(self._lose, _cloud, Forwarder.hole, engine=True),
            "cloud: refused at the engine": partial(self._lose, _cloud, Forwarder.cut, engine=True),
            "cloud: comes and goes": partial(self._flap, _cloud, 2.0, Forwarder.hole, engine=True),
            "cloud: hole at all replicas": self._lose_cloud,
            "database: hole at a replica": partial(
                self._lose, _database, Forwarder.hole, engine=False
            ),
            "database: resets at the engine": partial(self._reset, _database, engine=True),
            "database: frozen six times": self._freeze_again,
            "database: writes wait": self._lock,
        }

    def check(self, name: str) -> None:
        """A replica ended itself, or has too many connections to PostgreSQL."""
        for number, replica in enumerate(self._running.replicas):
            process = replica.process
            if process is None or process.process.returncode is not None:
                self._break(f"{name}: a replica has ended itself")
            else:
                port = self._running.ways[number].database.port
                if (count := connections(process.process.pid, port)) > CONNECTIONS:
                    self._break(f"{name}: {count} connections to PostgreSQL")

    @property
    def _running(self) -> Cluster:
        assert self._cluster is not None
        return self._cluster

    def _break(self, what: str) -> None:
        print(what, flush=True)  # noqa: T201 (it is what the program tells)
        self.broken_promises += 1

    async def _ways(self, *, engine: bool) -> tuple[Replica, Ways]:
        victim = await (self._running.engine() if engine else self._running.standby())
        return victim, self._running.ways[self._running.number(victim)]

    async def _lose(self, way: Way, weather: Callable[[Forwarder], None], *, engine: bool) -> None:
        """Lose one server at one replica."""
        _, ways = await self._ways(engine=engine)
        weather(way(ways))
        await self._watch(self._rng.uniform(SHORT, LONG), ready=False)
        way(ways).heal()
        await self._recovered()

    async def _flap(
        self, way: Way, seconds: float, weather: Callable[[Forwarder], None], *, engine: bool
    ) -> None:
        """Lose one server at one replica, again and again for some seconds."""
        _, ways = await self._ways(engine=engine)
        for _ in range(4):
            weather(way(ways))
            await asyncio.sleep(seconds)
            way(ways).heal()
            await asyncio.sleep(seconds)
        await self._recovered()

    async def _reset(self, way: Way, *, engine: bool) -> None:
        """Break all connections of one replica to one server each second or so."""
        _, ways = await self._ways(engine=engine)
        for _ in range(12):
            way(ways).reset()
            await self._watch(self._rng.uniform(0.3, 1.3), ready=False)
        await self._recovered()

    async def _lose_cloud(self) -> None:
        for ways in self._running.ways:
            ways.cloud.hole()
        await asyncio.sleep(self._rng.uniform(SHORT, LONG))
        for ways in self._running.ways:
            ways.cloud.heal()
        await self._recovered()

    async def _freeze_again(self) -> None:
        for _ in range(6):
            await self._freeze_for(self._rng.uniform(0.5, 3.0))
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
        await self._recovered()

    async def _freeze_for(self, seconds: float) -> None:
        for ways in self._running.ways:
            ways.database.hole()
        await asyncio.sleep(seconds)
        for ways in self._running.ways:
            ways.database.heal()

    async def _lock(self) -> None:
        """Let nobody write jobs for some seconds: what only reads is answered."""
        address = self._running.environment["COMFY_PROXY_DATABASE"]
        async with await psycopg.AsyncConnection.connect(address) as connection:
            await connection.execute("LOCK TABLE jobs IN SHARE MODE")
            await self._watch(self._rng.uniform(2, SHORT), ready=True)

    async def _watch(self, seconds: float, *, ready: bool) -> None:
        """Wait; meanwhile all replicas must be ready if that is promised."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, 0.5))
            for replica in self._running.replicas if ready else ():
                status, report = await self._running.readiness(replica)
                reason = str(report.get("reason"))  # the cloud has faults of its own
                if status == 503 and "Comfy Cloud" not in reason:
                    self._break(f"not ready: {reason}")


def _cloud(ways: Ways) -> Forwarder:
    return ways.cloud


def _database(ways: Ways) -> Forwarder:
    return ways.database


if __name__ == "__main__":
    sys.exit(main(NetworkChaos, jobs=60, clients=12, kills=15))
