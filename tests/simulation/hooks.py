"""The receiver of webhooks: it takes messages, refuses some, and answers others too late."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
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

    async def post(self, url: URL, data: bytes, headers: dict[str, str]) -> int:
        """Take a message, and return the status. Raises `aiohttp.ClientError`."""
        del url
        weather = self._world.weather
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
        return 200
