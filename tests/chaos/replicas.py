"""Chaos with three replicas, and the same accounting.

    PYTHONPATH=tests python -m chaos.replicas --jobs 300 --clients 30 --kills 10 [--seed N]

Replicas are killed, frozen and stopped; PostgreSQL is stopped, frozen and restarted.
Clients ask any replica, mostly one that answers, as behind a load balancer. What happens is drawn
from the seed; only the machine's timing is not. Ends with 1 if a number that should be zero is not.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import servers as server_processes
from chaos.gateway import QUICK, Gateway
from chaos.run import Chaos, main
from cluster.replicas import Cluster, Replica, Servers, running_cluster
from servers import ServerProcess
from yarl import URL

from proxy.settings import Settings
from proxy.simulator import Simulator

Disturbance = Callable[[], Awaitable[None]]

#: The chance that a client asks a replica although it is dead or frozen.
BLIND = 0.05


class ReplicaChaos(Chaos):
    """A run with three replicas; `kills` counts disturbances of each kind in turn."""

    timeout = 20.0
    #: Whether each replica has a way of its own to each server.
    forwarded = False

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._balancing = random.Random(self._rng.random())
        self._cluster: Cluster | None = None
        self._away: set[Replica] = set()

    def url(self) -> URL:
        """Any replica, mostly one that answers."""
        if self._cluster is None:
            return URL("http://127.0.0.1:1")
        replicas = self._cluster.replicas
        well = [replica for replica in replicas if replica not in self._away]
        blind = not well or self._balancing.random() < BLIND
        return self._balancing.choice(replicas if blind else well).url

    async def keep_running(self, simulator: Simulator) -> None:
        """Three replicas, disturbed; at the end each is asked to stop, which it must do."""
        with server_processes.postgresql() as postgresql:
            servers = Servers(postgresql)
            async with running_cluster(
                self._folder,
                servers,
                simulator,
                members=True,
                modules=QUICK,
                forwarded=self.forwarded,
                log_level="error",
                **Gateway.settings_of_proxies(),
            ) as self._cluster:
                database = self._cluster.environment["COMFY_PROXY_DATABASE"]
                await self.open_gateway(
                    self._cluster.admin_token,
                    [replica.url for replica in self._cluster.replicas],
                    Settings(data_dir=self._folder, database=database),
                )
                disturbances = self._disturbances(servers)
                while await self.is_to_be_disturbed():
                    name, disturb = next(disturbances)
                    await disturb()
                    self.done[name] += 1
                    self.check(name)
                for replica in self._cluster.replicas:
                    code = await replica.stop()
                    if code != 0:
                        raise RuntimeError(f"a replica ended with {code}")

    def _disturbances(self, servers: Servers) -> Iterator[tuple[str, Disturbance]]:
        """All kinds in turn, in an order that is drawn anew each time."""
        kinds = self.kinds(servers)
        while True:
            for name in self._rng.sample(sorted(kinds), len(kinds)):
                yield name, kinds[name]

    def check(self, name: str) -> None:
        """Look for what should not be, behind a disturbance of this name."""

    def kinds(self, servers: Servers) -> dict[str, Disturbance]:
        """All disturbances by their names."""
        database = servers.postgresql.server
        return {
            "replicas killed": self._kill,
            "engines killed": lambda: self._kill(engine=True),
            "replicas frozen": self._freeze,
            "engines frozen": lambda: self._freeze(engine=True),
            "replicas restarted": self._restart,
            "PostgreSQL stopped": lambda: self._stop(database),
            "PostgreSQL frozen": lambda: self._freeze_server(database),
        }

    async def _victim(self, *, engine: bool) -> Replica:
        assert self._cluster is not None
        return await self._cluster.engine() if engine else self._rng.choice(self._cluster.replicas)

    async def _kill(self, *, engine: bool = False) -> None:
        victim = await self._victim(engine=engine)
        self._away.add(victim)
        await victim.kill()
        await self._start(victim)

    async def _restart(self) -> None:
        victim = await self._victim(engine=False)
        self._away.add(victim)
        code = await victim.stop()
        if code != 0:
            raise RuntimeError(f"a replica ended with {code}")
        await self._start(victim)

    async def _start(self, victim: Replica) -> None:
        assert self._cluster is not None
        await asyncio.sleep(self._rng.uniform(0, 3))
        await victim.start()
        await self._cluster.is_ready(victim)
        self._away.discard(victim)

    async def _freeze(self, *, engine: bool = False) -> None:
        assert self._cluster is not None
        victim = await self._victim(engine=engine)
        self._away.add(victim)
        victim.freeze()
        await asyncio.sleep(self._rng.uniform(1, 12))
        victim.thaw()
        await self._cluster.is_ready(victim)
        self._away.discard(victim)

    async def _stop(
        self, server: ServerProcess, seconds: float = 8, how: signal.Signals | None = None
    ) -> None:
        await asyncio.to_thread(server.stop, how)
        await asyncio.sleep(self._rng.uniform(0, seconds))
        await asyncio.to_thread(server.start)
        await self._recovered()

    async def _freeze_server(self, server: ServerProcess) -> None:
        server.freeze()
        await asyncio.sleep(self._rng.uniform(1, 8))
        server.thaw()
        await self._recovered()

    async def _recovered(self) -> None:
        assert self._cluster is not None
        await self._cluster.until_ready()


if __name__ == "__main__":
    sys.exit(main(ReplicaChaos, kills=10))
