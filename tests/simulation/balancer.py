"""The load balancer in front of the processes, which follows `GET /leader`: late, and wrong for a
while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.replica import Replica
    from simulation.world import World

#: Seconds between two checks.
_CHECKS = (0.3, 2.0)


class Balancer:
    """Sends requests to the process that it takes for the leader, else to any that lives."""

    def __init__(self, world: World, replicas: Sequence[Replica]) -> None:
        self._world = world
        self._replicas = replicas
        self._leader: Replica | None = None

    async def follow(self) -> None:
        """Ask again and again who leads; while it is `stale` it asks nobody."""
        weather = self._world.weather
        while True:
            await asyncio.sleep(weather.draw(*_CHECKS))
            if weather.lasts("stale"):
                continue
            found = [each for each in self._replicas if self._reaches(each) and self._says_so(each)]
            self._leader = found[0] if found else None
            if self._replicas and weather.chance("balancer_wrong"):
                place = int(weather.draw(0.0, len(self._replicas)))
                self._leader = self._replicas[min(place, len(self._replicas) - 1)]

    def chosen(self, rng: random.Random) -> Replica | None:
        """Return where a request goes: to the leader, or where that is not reached to another."""
        leader = self._leader
        if leader is not None and self._reaches(leader):
            return leader
        living = [each for each in self._replicas if self._reaches(each)]
        return rng.choice(living) if living else None

    def _reaches(self, replica: Replica) -> bool:
        """Return whether a connection to a process is accepted; the system of one that stands still
        does so, too."""
        return replica.serves and not self._world.weather.front_away(replica.process)

    @staticmethod
    def _says_so(replica: Replica) -> bool:
        """Return whether a process answers that it leads."""
        return replica.leads and not replica.process.frozen
