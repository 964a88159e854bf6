"""Finds a job on Comfy Cloud by the mark that it carries in its `extra_data`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from cachetools import LRUCache

from proxy.cloud.errors import CloudTruncated
from proxy.cloud.upstream import Known
from proxy.translate.snapshots import Snapshot

#: The proxy's own key in `extra_data`, by which a job is found again among the account's.
MARK = "comfy_cloud_proxy"

#: How far (ms) the clock of the cloud may be from that of the proxy.
_MAX_SKEW = 3_600_000

#: Of how many jobs the mark is remembered.
_REMEMBERED = 2000


def id_by_mark(mark: str) -> str:
    """Return the id that the job with this mark is to have on the cloud, always the same."""
    return str(uuid5(NAMESPACE_URL, f"{MARK}:{mark}"))


class JobList(NamedTuple):
    """The newest jobs of an account; `is_whole` unless it was cut off before all that were asked
    for."""

    jobs: list[Snapshot]
    is_whole: bool


@dataclass(eq=False, repr=False)
class MarkedJobs:
    """Looks for jobs among an account's newest by their marks.

    `newest` lists jobs back to a time (ms), `extra_data` reads that of one, `None` if it is not
    there yet.
    """

    newest: Callable[[int], Awaitable[JobList]]
    extra_data: Callable[[str], Awaitable[dict[str, Any] | None]]
    _marks: LRUCache[str, object] = field(init=False, default_factory=lambda: LRUCache(_REMEMBERED))

    async def find(self, mark: str, known: Known, since: int) -> str | None:
        """Return the id of a job that was sent after `since`, `None` if there is none. Raises
        `CloudError`, a `CloudTruncated` if the list is cut off before that is known."""
        jobs, is_whole = await self.newest(since - _MAX_SKEW)
        recent = [entry.cloud_id for entry in jobs]
        others = await known(recent)
        for cloud_id in recent:
            if cloud_id not in others and await self._mark_of(cloud_id) == mark:
                return cloud_id
        if not is_whole:
            raise CloudTruncated(f"the list of jobs was cut off after {len(jobs)} of them")
        return None

    async def _mark_of(self, cloud_id: str) -> object:
        """Return the mark of a job; only one that was read never changes."""
        if cloud_id not in self._marks:
            extra_data = await self.extra_data(cloud_id)
            if extra_data is None:
                return None
            self._marks[cloud_id] = extra_data.get(MARK)
        return self._marks[cloud_id]
