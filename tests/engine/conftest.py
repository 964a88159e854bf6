"""A cloud whose jobs run for as long as a test wants, with a proxy of one slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import gated
import pytest
from stack import Client, running_proxy

from proxy.simulator import Simulator

ONE = {"slots": 1}


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as running:
        yield running


@pytest.fixture
async def client(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Client]:
    async with running_proxy(simulator, tmp_path / "data", **ONE) as proxy:
        yield Client(session, proxy.url)
