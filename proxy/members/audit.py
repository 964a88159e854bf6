"""Who did what, when and from where, in the database.

An entry is written at once; those that come while one is written share the next transaction.

An entry is `{"at", "action", "member", "address", …}`. Long values are cut and secrets removed.
Entries older than the setting says are removed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import structlog

from proxy.logging import scrub_start
from proxy.members.rates import Buckets
from proxy.storage.database import StorageError
from proxy.storage.usage import AuditRow, UsageRepository, forget_audit, note_audit
from proxy.supervisor import Supervisor

log = structlog.get_logger(__name__)

#: Letters of a value that are kept.
LONGEST = 500
#: Items of a list that are kept, and letters of each.
MOST_ITEMS, LONGEST_ITEM = 50, 100
#: Entries that may wait for a disk that is slow or refuses; what comes then is counted and dropped.
MOST_WAITING = 10_000
#: What clients do as often as they like: lines a second of one member, and lines at once. Others
#: are not limited, so that nobody hides what an admin does behind many lines.
LIMITED = frozenset({"submit", "delete", "clear_queue", "interrupt", "cancel"})
LINES_PER_SECOND, LINES_AT_ONCE = 20.0, 2000.0
#: Seconds before another try when the disk refuses.
_PAUSE = 1.0

_DAY_MS = 86_400_000

T = TypeVar("T")

Value = str | int | float | bool | None | list[str]


@dataclass(eq=False, repr=False)
class Audit:
    """The record. Entries older than `days` are removed; 0 days keep none.

    `now` gives seconds since 1970.
    """

    _repository: UsageRepository
    days: int = 90
    now: Callable[[], float] = time.time
    _waiting: list[AuditRow] = field(default_factory=list)
    _dropped: int = 0
    _rates: Buckets = field(default_factory=lambda: Buckets(LINES_PER_SECOND, LINES_AT_ONCE))
    #: The lines of each member that were left out, until there is room for a line that says so.
    _left_out: Counter[str] = field(default_factory=Counter)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _writer: asyncio.Task[None] | None = None
    _cleaned: int = -1

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Start the task that writes what was noted."""
        keep = (supervisor or Supervisor()).keep
        self._writer = keep(self._write_on, "write the audit record")

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        for member, count in self._left_out.items():
            lines: dict[str, Value] = {"lines": count}
            self._waiting.append(entry(self.now(), "lines_dropped", member, "", lines))
        self._left_out.clear()
        try:
            await self.flush()
        except StorageError as error:
            log.error("audit_lost", entries=len(self._waiting), error=str(error))

    def note(self, action: str, *, member: str = "", address: str = "", **about: Value) -> None:
        """Record an action; returns at once. `address` is the client's.

        A member that does too much at once gets one line that says how many were left out.
        """
        if self.days == 0:
            return
        if action in LIMITED and self._rates.take(member, self.now()) > 0:
            self._left_out[member] += 1
            return
        if member in self._left_out:
            lines: dict[str, Value] = {"lines": self._left_out.pop(member)}
            self._waiting.append(entry(self.now(), "lines_dropped", member, "", lines))
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(entry(self.now(), action, member, address, about))
        self._news.set()

    async def flush(self) -> None:
        """Write what was noted, to the end also if the caller is cancelled. Raises `StorageError`;
        then it is written with the next."""
        await finish(self._flush())

    async def _flush(self) -> None:
        async with self._writing:
            if self._dropped:
                about: dict[str, Value] = {"lines": self._dropped}
                self._waiting.append(entry(self.now(), "lines_dropped", "", "", about))
                self._dropped = 0
            batch, self._waiting = self._waiting, []
            try:
                if batch:
                    await self._repository.write(partial(note_audit, entries=batch))
            except StorageError:
                self._waiting = batch + self._waiting
                raise

    async def page(
        self, *, limit: int, offset: int = 0, member: str | None = None, action: str | None = None
    ) -> list[dict[str, Any]]:
        """Entries, newest first: `limit` of them behind the first `offset`. Raises
        `StorageError`."""
        await self.flush()
        rows = await self._repository.record(
            limit=limit, offset=offset, member=member, action=action
        )
        return [json.loads(row.entry) for row in rows]

    async def _write_on(self) -> None:
        """Write every now and then, whatever goes wrong."""
        failing = False
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.flush()
                await self._clean()
                failing = False
                continue
            except StorageError as error:
                if not failing:
                    log.error("audit_write_failed", error=str(error))
            except Exception:
                if not failing:
                    log.exception("audit_write_failed")
            failing = True
            self._news.set()
            await asyncio.sleep(_PAUSE)

    async def _clean(self) -> None:
        """Once a day, remove what is too old."""
        today = int(self.now() * 1000) // _DAY_MS
        if self._cleaned != today:
            before = (today - self.days) * _DAY_MS
            await self._repository.write(partial(forget_audit, before=before))
            self._cleaned = today


def entry(at: float, action: str, member: str, address: str, about: dict[str, Value]) -> AuditRow:
    """An entry of the record, cut and without secrets."""
    moment = datetime.fromtimestamp(at, UTC)
    whole = {
        "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "action": action,
        "member": member,
        "address": address,
        **about,
    }
    clean = {name: _shown(value) for name, value in whole.items()}
    text = json.dumps(clean, ensure_ascii=True)
    return AuditRow(int(at * 1000), str(clean["action"]), str(clean["member"]), text.encode())


async def note(repository: UsageRepository, action: str, **about: Value) -> None:
    """Record an action of a command line, whose member is anyone who may write the folder. Raises
    `StorageError`."""
    noted = entry(time.time(), action, "", "command line", about)
    await repository.write(partial(note_audit, entries=[noted]))


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; a cancellation of the caller is raised when it has come to its end. A write
    that is cancelled halfway leaves nobody who knows whether it was made."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the caller, who is gone, does not fetch it
        raise


def _shown(value: Value) -> Value:
    """Return a value as it is recorded: cut, and without secrets."""
    if isinstance(value, list):
        return [scrub_start(str(item), LONGEST_ITEM) for item in value[:MOST_ITEMS]]
    return scrub_start(value, LONGEST) if isinstance(value, str) else value
