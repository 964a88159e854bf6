"""Who did what, when and from where: a file of JSON lines for each day (UTC).

A line is `{"at", "action", "member", "address", …}`. Long values are cut, secrets are removed
and JSON escapes what would begin a line of its own. Files are readable by their owner alone and
removed when they are older than the setting says.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from proxy.logging import REMOVED, scrub
from proxy.members.tokens import SHAPE
from proxy.members.usage import finish

log = structlog.get_logger(__name__)

FOLDER = "audit"

#: Letters of a value that are kept.
LONGEST = 500
#: Items of a list that are kept, and letters of each.
MOST_ITEMS, LONGEST_ITEM = 50, 100
#: Lines that may wait for a disk that is slow or refuses; what comes then is counted and dropped.
MOST_WAITING = 10_000
#: Bytes of a file that are read at once, from its end.
BLOCK = 64 * 1024
#: Seconds before another try when the disk refuses.
_PAUSE = 1.0

_TOKEN = re.compile(SHAPE)

Value = str | int | float | bool | None | list[str]


class Audit:
    """The record in `folder`. Files older than `days` are removed; 0 days keep no record.

    `now` gives seconds since 1970.
    """

    def __init__(
        self, folder: Path, *, days: int = 90, now: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._days = days
        self._now = now
        self._waiting: deque[tuple[str, str]] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._cleaned = ""

    async def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write_on(), name="write the audit record")

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        try:
            await self.flush()
        except OSError as error:
            log.error("audit_lost", lines=len(self._waiting), error=str(error))

    def note(self, action: str, *, member: str = "", address: str = "", **about: Value) -> None:
        """Record an action; returns at once. `address` is the client's."""
        if self._days == 0:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line(self._now(), action, member, address, about))
        self._news.set()

    async def flush(self) -> None:
        """Write what was noted, to the end also if the caller is cancelled.

        Raises `OSError`; then what is not written yet is written with the next.
        """
        await finish(self._flush())

    async def _flush(self) -> None:
        async with self._writing:
            if self._dropped:
                about: dict[str, Value] = {"lines": self._dropped}
                self._waiting.append(line(self._now(), "lines_dropped", "", "", about))
                self._dropped = 0
            batch, self._waiting = self._waiting, deque()
            try:
                await asyncio.to_thread(append, self._folder, batch)
            finally:
                self._waiting.extendleft(reversed(batch))

    async def page(
        self, *, limit: int, offset: int = 0, member: str | None = None, action: str | None = None
    ) -> list[dict[str, Any]]:
        """Entries, newest first: `limit` of them behind the first `offset`. Raises `OSError`."""
        await self.flush()
        return await asyncio.to_thread(
            read, self._folder, limit=limit, offset=offset, member=member, action=action
        )

    async def _write_on(self) -> None:
        failing = False
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.flush()
                await self._clean()
                failing = False
            except OSError as error:
                if not failing:
                    log.error("audit_unwritten", error=error.strerror)
                failing = True
                self._news.set()
                await asyncio.sleep(_PAUSE)

    async def _clean(self) -> None:
        """Once a day, remove what is too old."""
        today = datetime.fromtimestamp(self._now(), UTC).date()
        if self._cleaned != today.isoformat():
            await asyncio.to_thread(clean, self._folder, today - timedelta(days=self._days))
            self._cleaned = today.isoformat()


def line(
    at: float, action: str, member: str, address: str, about: dict[str, Value]
) -> tuple[str, str]:
    """The day of an entry, and the entry as a line."""
    moment = datetime.fromtimestamp(at, UTC)
    entry = {
        "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "action": action,
        "member": member,
        "address": address,
        **about,
    }
    clean_entry = {name: _shown(value) for name, value in entry.items()}
    return moment.date().isoformat(), json.dumps(clean_entry, ensure_ascii=True) + "\n"


def append(folder: Path, lines: deque[tuple[str, str]]) -> None:
    """Move lines to the files of their days; several processes may do so at once.

    Raises `OSError`; those that are not written are still in `lines` then.
    """
    if lines:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while lines:
        day = lines[0][0]
        handle = os.open(folder / f"{day}.jsonl", flags, 0o600)
        with open(handle, "a+b", buffering=0) as file:  # noqa: PTH123 (a handle)
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a full disk has cut the last line
                    file.write(b"\n")
            while lines and lines[0][0] == day:
                data = lines[0][1].encode("ascii")
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                lines.popleft()


def note(folder: Path, action: str, **about: Value) -> None:
    """Record an action of a command line, whose member is whoever may write the folder.

    Raises `OSError`.
    """
    append(folder, deque([line(time.time(), action, "", "command line", about)]))


def read(
    folder: Path,
    *,
    limit: int,
    offset: int = 0,
    member: str | None = None,
    action: str | None = None,
) -> list[dict[str, Any]]:
    """Entries of a record, newest first; those of a member or an action alone. Raises `OSError`."""
    found: list[dict[str, Any]] = []
    for text in _lines_from_the_end(folder):
        try:
            entry = json.loads(text)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        if member not in (None, entry.get("member")) or action not in (None, entry.get("action")):
            continue
        if offset > 0:
            offset -= 1
            continue
        found.append(entry)
        if len(found) >= limit:
            break
    return found


def clean(folder: Path, first: date) -> None:
    """Remove the files of the days before `first`. Raises `OSError`."""
    for path in folder.glob("*.jsonl"):
        if path.stem < first.isoformat():
            path.unlink(missing_ok=True)


def _lines_from_the_end(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.jsonl"), reverse=True):
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            rest = b""
            while position > 0:
                start = max(0, position - BLOCK)
                file.seek(start)
                rest = file.read(position - start) + rest
                position = start
                first, *whole = rest.split(b"\n")
                rest = first
                yield from filter(None, reversed(whole))
            if rest:
                yield rest


def _shown(value: Value) -> Value:
    if isinstance(value, list):
        return [_text(str(one))[:LONGEST_ITEM] for one in value[:MOST_ITEMS]]
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """Cut behind the removal of secrets, so that no part of one stays."""
    return _TOKEN.sub(REMOVED, scrub(value[: 100 * LONGEST]))[:LONGEST]
