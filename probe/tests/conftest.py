"""Fixtures of the probe's tests; their helpers are those of `tests/`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client without a proxy between."""
    async with aiohttp.ClientSession() as session:
        yield session
