"""The receiver of webhooks: it takes messages, refuses some, and answers others too late."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
from simulation.database import server
from yarl import URL

if TYPE_CHECKING:
    from simulation.world import World


class Hooks:
    """What was accepted: by job, the types and under which ids."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.accepted: dict[str, Counter[str]] = {}
        self.ids: dict[tuple[str, str], set[str]] = {}
        self.bodies: dict[str, set[bytes]] = {}
        #: How often a message was accepted, and that answered, by its id.
        self.answered: Counter[str] = Counter()

    async def post(self, url: URL, data: bytes, headers: dict[str, str]) -> int:
        """Take a message, and return the status. Raises `aiohttp.ClientError`."""
        del url
        weather = self._world.weather
        self._check_new(headers["webhook-id"])
        await asyncio.sleep(weather.draw(0.01, 0.2))
        if weather.chance("hook_lost"):
            raise aiohttp.ServerDisconnectedError
        message: dict[str, Any] = json.loads(data)
        type_, job = str(message["type"]), str(message.get("data", {}).get("prompt_id", ""))
        id_ = headers["webhook-id"]
        self.ids.setdefault((job, type_), set()).add(id_)
        self.bodies.setdefault(id_, set()).add(data)
        if weather.chance("hook_refused"):
            return 500
        self.accepted.setdefault(job, Counter())[type_] += 1
        if weather.chance("hook_lost"):
            raise aiohttp.ServerDisconnectedError
        self.answered[id_] += 1
        return 200

    def _check_new(self, id_: str) -> None:
        """Note a problem if the engine sends what the database has as delivered."""
        found = server().raw.execute(
            "SELECT 1 FROM webhook_deliveries WHERE message = ? AND outcome = 'delivered'", (id_,)
        )
        if self._world.process() is self._world.leader() and found.fetchone() is not None:
            self._world.problems.append(("webhook_repeated", id_))
