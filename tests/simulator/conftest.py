from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from simulator.visitor import Visitor

from proxy.simulator import Simulator


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def visitor(sim: Simulator) -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession() as session:
        visitor = Visitor(sim, session, sim.key)
        yield visitor
        for ears in visitor.ears:
            await ears.socket.close()
