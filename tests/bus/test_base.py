"""The buses that there are fit the interface."""

from __future__ import annotations

from proxy.bus import base
from proxy.bus.memory import MemoryBus


async def test_the_bus_in_memory_is_a_bus() -> None:
    bus: base.EventBus = MemoryBus()
    stream: base.MessageStream = bus.stream("a")
    subscription: base.Subscription = bus.subscribe("a", lambda _: None)
    stream.close()
    subscription.close()
    await bus.close()
    assert [message async for message in stream] == []
