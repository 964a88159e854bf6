"""The bus as the engine uses it: it publishes while its term lasts."""

from __future__ import annotations

from proxy.bus import BusMessage, EventBus
from proxy.engine.term import Term

#: Seconds after which a client has its answer, also without a `JobReleased`: in one process, with
#: other replicas (the one that answers may have died), and while the bus is not connected.
_ALONE, _LOSSY, _UNCONNECTED = 5.0, 2.0, 1.0


class EngineBus:
    """Publishes on the `bus` while the `term` lasts."""

    def __init__(self, bus: EventBus, term: Term) -> None:
        self.bus = bus
        self.term = term
        #: Whether what is published may be lost on its way to other processes.
        self.lossy = bus.lossy
        #: The epoch of the lease, in front of the numbers of a job's messages.
        self.epoch = term.fence.epoch

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        """Publish a message, while this engine runs the jobs."""
        if self.term.lasts:
            self.bus.publish(topic, message, droppable=droppable)

    @property
    def answer_timeout(self) -> float:
        """The seconds within which a client has the answer about its job, after that is sent."""
        if not self.bus.connected:
            return _UNCONNECTED
        return _LOSSY if self.lossy else _ALONE

    async def flush(self) -> None:
        """Wait, for a moment at most, until the bus has what was published."""
        if self.term.lasts:
            await self.bus.flush()
