"""The audit record: who did what, when and from which address.

An entry is `{"at", "action", "member", "address", …}`, with long values cut and secrets removed. It
is written at once; entries that come during a write share the next transaction. Entries are deleted
after `audit_days`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from proxy.logging import scrub_start
from proxy.members.rates import Buckets
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop
from proxy.storage.database import StorageError
from proxy.storage.leases import Batch
from proxy.storage.usage import AuditRow, UsageRepository, add_audit
from proxy.storage.write_behind import WriteBehind

log = structlog.get_logger(__name__)

#: Maximum length of a recorded value.
MAX_LENGTH = 500
#: Maximum number of recorded items of a list, and the maximum length of each.
MAX_ITEMS, MAX_ITEM_LENGTH = 50, 100
#: Maximum number of entries that wait to be written; further ones are counted and dropped.
MAX_WAITING = 10_000
#: Actions that clients may repeat quickly, with the limits for one member: entries a second and in
#: a burst. Other actions are not limited, so that none of an admin's gets lost among many entries.
LIMITED = frozenset({"submit", "delete", "clear_queue", "interrupt", "cancel"})
MAX_RATE, MAX_BURST = 20.0, 2000.0
#: Seconds before another attempt after a failed write.
_RETRY_DELAY = 1.0

_DAY_MS = 86_400_000

Value = str | int | float | bool | None | list[str]


@dataclass(eq=False, repr=False)
class Audit:
    """The audit record. Entries are deleted after `days`; 0 records nothing."""

    _repository: UsageRepository
    days: int = 90
    _rates: Buckets = field(init=False, default_factory=lambda: Buckets(MAX_RATE, MAX_BURST))
    #: Entries of each member beyond the rate, and of `""` those beyond `MAX_WAITING`; one entry
    #: with their number follows.
    _left_out: Counter[str] = field(init=False, default_factory=Counter)
    _writer: asyncio.Task[None] | None = field(init=False, default=None)
    _count: int = field(init=False, default=0)
    _cleaned: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        #: By their numbers.
        self._entries = WriteBehind[int, AuditRow](
            "audit record", self._write, gather=0.0, again=_RETRY_DELAY, limit=MAX_WAITING
        )

    async def start(self, supervisor: Supervisor) -> None:
        """Start the task that writes the entries."""
        self._writer = supervisor.keep(self._entries.run, "write the audit record")

    async def close(self) -> None:
        """Write the remaining entries; log a failure."""
        await stop(self._writer)
        with suppress(StorageError):
            await self.flush()
        for member in list(self._left_out):
            self._tell_left_out(member)
        await self._entries.close()

    def record(self, action: str, *, member: str = "", address: str = "", **about: Value) -> None:
        """Record an action without waiting. `address` is the client's.

        For a member beyond the rate, one entry has the number of those that were left out.
        """
        if self.days == 0:
            return
        if action in LIMITED and self._rates.spend(member, clock.time()) > 0:
            self._left_out[member] += 1
            return
        for who in ("", member):
            if who in self._left_out:
                self._tell_left_out(who)
        if not self._add(entry(clock.time(), action, member, address, about)):
            self._left_out[""] += 1

    def _tell_left_out(self, member: str) -> None:
        """Record how many entries of a member were left out, if there is room."""
        lines: dict[str, Value] = {"lines": self._left_out[member]}
        if self._add(entry(clock.time(), "lines_dropped", member, "", lines)):
            del self._left_out[member]

    def _add(self, row: AuditRow) -> bool:
        self._count += 1
        return self._entries.add(self._count, row)

    async def flush(self) -> None:
        """Write the waiting entries. Raises `StorageError`: then they wait still."""
        await self._entries.flush()
        if "" in self._left_out:
            self._tell_left_out("")
            await self._entries.flush()

    async def _write(self, entries: Mapping[int, AuditRow], batch: Batch) -> None:
        write = partial(add_audit, entries=list(entries.values()), batch=batch)
        await self._repository.database.write(write)
        today = int(clock.time() * 1000) // _DAY_MS
        if self._cleaned != today:
            await self._clean(today)

    async def page(
        self, *, limit: int, offset: int = 0, member: str | None = None, action: str | None = None
    ) -> list[dict[str, Any]]:
        """Return `limit` entries after the first `offset`, newest first. Raises `StorageError`."""
        await self.flush()
        rows = await self._repository.record(
            limit=limit, offset=offset, member=member, action=action
        )
        return [json.loads(row.entry) for row in rows]

    async def _clean(self, today: int) -> None:
        """Delete old entries, after the next write if this fails; `today` is in days since 1970."""
        before = (today - self.days) * _DAY_MS
        try:
            await self._repository.forget(before)
            self._cleaned = today
        except Exception as error:  # the entries are written all the same
            unexpected = not isinstance(error, StorageError)
            log.error("audit_clean_failed", error=str(error), exc_info=unexpected)


def entry(at: float, action: str, member: str, address: str, about: dict[str, Value]) -> AuditRow:
    """Return an entry, with long values cut and without secrets."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    about = {"action": action, "member": member, "address": address, **about}
    written = {name: _recorded(value) for name, value in about.items()}
    text = json.dumps({"at": moment.replace("+00:00", "Z"), **written}, ensure_ascii=True)
    return AuditRow(int(at * 1000), str(written["action"]), str(written["member"]), text.encode())


async def record(repository: UsageRepository, action: str, **about: Value) -> None:
    """Record an action of the command line, which has no member: anyone who may write the data
    folder can run it. Raises `StorageError`."""
    noted = entry(clock.time(), action, "", "command line", about)
    await repository.database.write(partial(add_audit, entries=[noted]))


def _recorded(value: Value) -> Value:
    """Return a value as it is recorded: cut, and without secrets."""
    if isinstance(value, list):
        return [scrub_start(str(item), MAX_ITEM_LENGTH) for item in value[:MAX_ITEMS]]
    return scrub_start(value, MAX_LENGTH) if isinstance(value, str) else value
