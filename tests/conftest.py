"""The whole stack, for every room's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import settings
from quiet import logging_restored
from stack import Client, Proxy, running_proxy

from proxy.simulator import Simulator
from proxy.storage.database import Database, open_sqlite
from proxy.storage.migrations import migrate

# The same examples everywhere, and none is too slow: a busy machine is no counterexample.
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """No test leaves its logging to the next."""
    with logging_restored():
        yield


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_sqlite(tmp_path / "proxy.db")
    await migrate(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path / "data") as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def client(proxy: Proxy, session: aiohttp.ClientSession) -> Client:
    return Client(session, proxy.url)
