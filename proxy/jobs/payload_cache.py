"""A cache of the payloads of small live jobs, to show the queue."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress

from msgspec import Struct

from proxy.jobs.models import Job
from proxy.sharing.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.translate import codec

#: Bytes of the largest entry.
_MAX_ENTRY = 256 * 1024
#: Bytes that an entry takes beside what was sent.
_OVERHEAD = 500


class QueueItem(Struct):
    """What the client sent, as JSON, and what is around it in the queue."""

    graph: bytes
    extra_data: bytes
    _outputs: tuple[str, ...] | None = None
    _head: bytes = b""
    _tail: bytes = b""

    def item(self, job: Job) -> bytes:
        """Return `[number, prompt_id, prompt, extra_data, outputs_to_execute]`, as in `/queue`."""
        if self._outputs != job.outputs_to_execute:
            self._outputs = job.outputs_to_execute
            number, prompt_id = codec.dump_bytes(job.number), codec.dump_bytes(job.prompt_id)
            self._head = b"[%b, %b, " % (number, prompt_id)
            self._tail = b", %b]" % codec.dump_bytes(job.outputs_to_execute)
        return b"".join((self._head, self.graph, b", ", self.extra_data, self._tail))


class PayloadCache:
    """Items of the queue by the order of their jobs; the oldest go first.

    Each takes spare bytes of its member from the budget, and gives them up when they are needed.
    What does not fit is not kept.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        #: Each with the bytes that it takes.
        self._items: OrderedDict[int, tuple[QueueItem, Allocation]] = OrderedDict()
        budget.add_cache(self._evict)

    def get(self, order: int) -> QueueItem | None:
        """Return what was sent for a job, if it is here."""
        found = self._items.get(order)
        return None if found is None else found[0]

    def put(self, member: str, order: int, item: QueueItem) -> None:
        """Keep what was sent for a job, if it is small and there is room."""
        size = len(item.graph) + len(item.extra_data) + _OVERHEAD
        if order in self._items or size > _MAX_ENTRY:
            return
        held = self._budget.spare(member, "job")
        with suppress(MemoryLimitError):
            held.resize(size)
            self._items[order] = item, held

    def _evict(self) -> bool:
        """Drop the oldest item; return whether there was one."""
        if not self._items:
            return False
        self.remove(next(iter(self._items)))
        return True

    def remove(self, order: int) -> None:
        """Drop what was sent for a job."""
        if order in self._items:
            _, held = self._items.pop(order)
            held.release()
