"""The probe's connection to the cloud."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from comfy_cloud_probe.wire import Wire
from process import TIMEOUT

from proxy.simulator import Simulator, Switches


async def test_a_socket_opens_once_the_cloud_has_noticed_that_another_closed(
    session: aiohttp.ClientSession,
) -> None:
    async with Simulator(switches=Switches(socket_cap=1)) as simulator:
        wire = Wire(session, simulator.base_url, simulator.key)
        first = await wire.socket()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await wire.socket()
        opening = asyncio.create_task(wire.socket_again())
        await simulator.wait_for_calls("GET /ws", 3, TIMEOUT)
        await first.close()
        await (await opening).close()
