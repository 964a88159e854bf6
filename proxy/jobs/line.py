"""The jobs that wait with us: of each member by `number`, then as they were accepted."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from proxy.jobs.record import JobRecord, Number


class Line:
    """The waiting jobs of all members, each member's in its own order."""

    def __init__(self) -> None:
        self._members: dict[str, list[tuple[Number, int, str]]] = {}
        self._records: dict[str, JobRecord] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, record: JobRecord) -> bool:
        return self._records.get(record.key) is record

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(self._records.values())

    def add(self, record: JobRecord) -> None:
        """Put a job where its number and its age belong."""
        self._records[record.key] = record
        insort(self._members.setdefault(record.member, []), _place(record))

    def remove(self, record: JobRecord) -> None:
        """Take a job out, wherever it stands."""
        del self._records[record.key]
        places = self._members[record.member]
        del places[bisect_left(places, _place(record))]
        if not places:
            del self._members[record.member]

    def members(self) -> list[str]:
        """The members with waiting jobs."""
        return list(self._members)

    def in_order(self, member: str) -> Iterator[JobRecord]:
        """The member's waiting jobs, the next one first."""
        return (self._records[key] for _, _, key in self._members.get(member, []))

    def of(self, member: str) -> list[JobRecord]:
        """The member's waiting jobs in their order."""
        return [self._records[key] for _, _, key in self._members.get(member, [])]

    def count(self, member: str) -> int:
        """How many jobs of the member wait."""
        return len(self._members.get(member, []))

    def orders(self, member: str) -> list[int]:
        """When the member's waiting jobs were accepted, in the order in which they will go."""
        return [order for _, order, _ in self._members.get(member, [])]


def _place(record: JobRecord) -> tuple[Number, int, str]:
    return record.number, record.order, record.key
