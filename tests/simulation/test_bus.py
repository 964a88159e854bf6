"""What a process that stood still believes of the bus: real `ValkeyBus`es in a simulated world."""

from __future__ import annotations

import asyncio

from proxy.bus.valkey import ValkeyBus
from simulation.loop import PROCESS, Process
from simulation.world import World


def bus_of(process: Process, *, leads: bool) -> ValkeyBus:
    """Return a bus that runs in a process."""
    token = PROCESS.set(process)
    try:
        bus = ValkeyBus("redis://bus/0")
        bus.leads = leads
        process.tasks.append(asyncio.get_running_loop().create_task(bus.run()))
    finally:
        PROCESS.reset(token)
    return bus


def test_beats_that_waited_while_a_process_stood_still_are_no_news_of_the_engine() -> None:
    world = World(1, rates={}, slots=1, seconds=1.0, in_order=False)
    engine, frozen = Process("engine"), Process("frozen")

    async def run() -> tuple[bool, bool, bool]:
        bus_of(engine, leads=True)
        bus = bus_of(frozen, leads=False)
        await asyncio.sleep(3.0)
        before = bus.whole
        frozen.frozen = True
        await asyncio.sleep(1.0)
        world.weather.begin("bus", 60.0, "engine")
        world.bus.cut(engine)
        await asyncio.sleep(5.0)
        world.loop.thaw(frozen)
        await asyncio.sleep(0.3)
        after = bus.whole
        world.weather.heal()
        await asyncio.sleep(3.0)
        return before, after, bus.whole

    with world.installed():
        assert world.loop.run_until_complete(run()) == (True, False, True)
