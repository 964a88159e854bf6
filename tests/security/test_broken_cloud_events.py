"""A cloud that floods its event socket with what is no event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broken_cloud import BrokenCloud, broken_cloud
from process import before
from security.attack import CLOUD
from security.conftest import Start

from proxy.simulator import Simulator

#: Frames in a flood, and floods, on each connection that is there.
FRAMES, FLOODS = 60_000, 8
PAUSE = 0.5


@pytest.fixture
async def cloud(simulator: Simulator) -> AsyncIterator[BrokenCloud]:
    async with broken_cloud(simulator) as running:
        yield running


@pytest.mark.parametrize(
    "frame", [b"\x81\x01x", b"\x81\x02{}", b"\x82\x01x"], ids=["no JSON", "no type", "no frame"]
)
async def test_a_flood_of_rejected_events(cloud: Any, start: Start, frame: bytes) -> None:
    async with start(environment=before(cloud)) as target, target.attacked_by(CLOUD):
        for _ in range(FLOODS):
            cloud.flood(frame * FRAMES)
            await asyncio.sleep(PAUSE)
