"""The ended jobs of all members: entries of the history, lists and searches of them.

A payload (`job_payloads`) belongs to its entry as it belonged to the job, under the same key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Literal, Protocol

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
)

from proxy.storage.database import Repository
from proxy.storage.files import forget_outputs
from proxy.storage.statements import CHUNK, Upsert, chunks, run
from proxy.storage.tables import history, job_numbers, job_payloads
from proxy.translate import codec

#: History entries that are read at once when many are sent, and their bytes if they are several.
PAGE = 64
PAGE_BYTES = 1024 * 1024
#: Maximum number of ended jobs on a page of a search.
MAX_FOUND = 100


class EndedJob(Struct, frozen=True):
    """How a job ended. `summary` is what lists show of it, `result` a JSON object of the rest of
    its history entry, `details` one of what the dashboard shows beside. `cloud_id` is that of a job
    that has ended before it was written."""

    state: str
    started_at: int
    ended_at: int
    summary: bytes
    result: bytes
    outputs_to_execute: list[str]
    details: bytes = b"{}"
    cloud_id: str | None = None


class LiveRow(Protocol):
    """What the history takes over of a job that has not ended."""

    key: int
    member: str
    id: str
    number: int | float
    workflow_id: str | None
    client_id: str | None
    cloud_id: str | None
    created_at: int
    label: str


class HistoryEntry(Struct, frozen=True):
    """An ended job with its payload. All bytes are JSON, as are `number` and
    `outputs_to_execute`."""

    key: int
    member: str
    id: str
    sequence: int
    state: str
    number: str
    created_at: int
    started_at: int
    ended_at: int
    outputs_to_execute: str
    summary: bytes
    result: bytes
    graph: bytes
    extra_data: bytes


class EndedRow(Struct, frozen=True):
    """An ended job without its payload. Times are in ms; `summary` and `details` are JSON as in
    `EndedJob`."""

    key: int
    member: str
    id: str
    state: str
    label: str
    created_at: int
    started_at: int
    ended_at: int
    summary: bytes
    details: bytes


def _columns(kind: Any) -> list[Any]:
    """Return the columns that are the fields of a struct."""
    tables = (history.c, job_payloads.c)
    names = kind.__struct_fields__
    return [next(table[name] for table in tables if name in table) for name in names]


_KEY = bindparam("job_key", type_=BigInteger)
_MINE = history.c.member == bindparam("m")
_ADD = insert(history)
_DROP = delete(history).where(history.c.key == _KEY)
_DROP_PAYLOAD = delete(job_payloads).where(job_payloads.c.key == _KEY)
_HAS = select(history.c.key).where(history.c.key == _KEY)
_PREVIOUS = select(history.c.key, history.c.sequence).where(_MINE, history.c.id == bindparam("i"))
_LAST = select(func.max(history.c.sequence)).where(_MINE)
_COUNT = select(func.count()).select_from(history).where(_MINE)
_OLDEST = (
    select(history.c.key, history.c.id)
    .where(_MINE)
    .order_by(history.c.sequence)
    .limit(bindparam("limit", type_=BigInteger))
)
_ENTRY = (
    select(*_columns(HistoryEntry))
    .join(job_payloads, job_payloads.c.key == history.c.key)
    .where(_MINE)
)
_ENTRY_OF = _ENTRY.where(history.c.id == bindparam("i"))
_ENTRIES = (
    _ENTRY.where(
        history.c.sequence >= bindparam("first", type_=BigInteger),
        history.c.sequence <= bindparam("last", type_=BigInteger),
    )
    .order_by(history.c.sequence)
    .limit(PAGE)
)
_BYTES = (history.c.summary, history.c.result, job_payloads.c.graph, job_payloads.c.extra_data)
_SIZES = _ENTRIES.with_only_columns(
    history.c.sequence, sum((func.length(column) for column in _BYTES), literal(0))
)
_SEQUENCES = select(history.c.sequence).where(_MINE)
_ROWS = select(*_columns(EndedRow))
_PLACED = Upsert(job_numbers, "ended", how="next")


class HistoryRepository(Repository):
    """The history of all members."""

    async def has(self, key: int) -> bool:
        """Return whether a job is in the history."""
        return await self._first(_HAS, {"job_key": key}) is not None

    async def entry(self, member: str, id_: str) -> HistoryEntry | None:
        """Return an entry of the history."""
        row = await self._first(_ENTRY_OF, {"m": member, "i": id_})
        return None if row is None else HistoryEntry(**row._mapping)

    async def entries(
        self,
        member: str,
        *,
        last: int | None = None,
        offset: int = 0,
        limit: int | None = None,
        reserve: Callable[[int], object] = int,
    ) -> AsyncIterator[list[HistoryEntry]]:
        """Yield entries in pages, the oldest first: the `last` ones, or `limit` of them after the
        first `offset`. Entries that are added meanwhile are not included.

        `reserve` is called with the bytes of some entries before they are read.
        """
        bounds = await self._bounds(member, last, offset, limit)
        while bounds is not None:
            first, end = bounds
            found = {"m": member, "first": first, "last": end}
            sizes = [tuple(row) for row in await self._all(_SIZES, found)]
            page = _first_page(sizes)
            if not page:
                return
            reserve(sum(size for _, size in page))
            found["last"] = page[-1][0]
            rows = await self._all(_ENTRIES, found)
            if rows:
                yield [HistoryEntry(**row._mapping) for row in rows]
            more = len(page) < len(sizes) or len(sizes) == PAGE
            bounds = (page[-1][0] + 1, end) if more else None

    async def _bounds(
        self, member: str, last: int | None, offset: int, limit: int | None
    ) -> tuple[int, int] | None:
        """Return the first and the last sequence of a part of the history; `None` if it is
        empty."""
        if limit == 0 or last == 0:
            return None
        newest_first = _SEQUENCES.order_by(history.c.sequence.desc()).limit(1)
        oldest_first = _SEQUENCES.order_by(history.c.sequence).limit(1)
        if last is not None:
            starts = [newest_first.offset(last - 1), oldest_first]
        else:
            starts = [oldest_first.offset(offset)]
        ends = [newest_first]
        if limit is not None:
            ends.insert(0, oldest_first.offset(offset + limit - 1))
        # The first value that there is; SQLite wants two at least.
        query: Select[Any] = select(
            func.coalesce(*(query.scalar_subquery() for query in starts), null()),
            func.coalesce(*(query.scalar_subquery() for query in ends), null()),
        )
        (row,) = await self._all(query, {"m": member})
        first, end = tuple(row)
        return None if first is None or end is None else (first, end)

    async def summaries(
        self,
        member: str,
        *,
        states: Collection[str],
        workflow_id: str | None = None,
        by: Literal["created", "duration"] = "created",
        descending: bool = True,
        limit: int | None = None,
    ) -> tuple[list[bytes], int]:
        """Return the first `limit` summaries of the member's ended jobs in these states, in order,
        and how many there are. Jobs that are equal in order come as they ended."""
        wanted = _MINE & history.c.state.in_(sorted(states))
        if workflow_id is not None:
            wanted &= history.c.workflow_id == workflow_id
        duration = history.c.ended_at - history.c.started_at
        value = history.c.created_at if by == "created" else duration
        order = (value.desc() if descending else value, history.c.sequence)
        keys = select(history.c.key).where(wanted).order_by(*order).limit(limit).subquery()
        query = select(history.c.summary).join(keys, keys.c.key == history.c.key).order_by(*order)
        count = select(func.count()).select_from(history).where(wanted)

        def work(connection: Connection) -> tuple[list[bytes], int]:
            found = connection.execute(query, {"m": member}).scalars().all()
            return list(found), connection.execute(count, {"m": member}).scalar_one()

        return await self._database.read(work)

    async def search(
        self,
        member: str | None,
        *,
        states: Collection[str] = (),
        text: str = "",
        before: tuple[int, int] | None = None,
        limit: int,
    ) -> list[EndedRow]:
        """Return ended jobs of a member, or of all, the newest first, at most `MAX_FOUND`.

        Those after the job with this end and key (`before`), in one of the states, and with the
        text in their label, id or member, in large or small letters.
        """
        query = _ROWS.order_by(history.c.ended_at.desc(), history.c.key.desc())
        if member is not None:
            query = query.where(history.c.member == member)
        if states:
            query = query.where(history.c.state.in_(sorted(states)))
        if text:
            fields = (history.c.label, history.c.id, history.c.member)
            query = query.where(or_(*(field.icontains(text, autoescape=True) for field in fields)))
        if before is not None:
            at, key = before
            after = or_(history.c.ended_at < at, history.c.key < key)
            query = query.where(history.c.ended_at <= at, after)
        return await self._rows(query.limit(min(limit, MAX_FOUND)))

    async def row(self, member: str, id_: str) -> EndedRow | None:
        """Return an ended job without its payload."""
        query = _ROWS.where(history.c.member == member, history.c.id == id_)
        return next(iter(await self._rows(query)), None)

    async def _rows(self, query: Select[Any]) -> list[EndedRow]:
        return [EndedRow(**row._mapping) for row in await self._all(query)]

    async def since(self, since: int) -> list[tuple[int, str, str, str | None, int]]:
        """Return key, member, id, client's id and end (ms) of the jobs that have ended since then
        (ms)."""
        h = history.c
        query = select(h.key, h.member, h.id, h.client_id, h.ended_at).where(h.ended_at >= since)
        return [tuple(row) for row in await self._all(query)]

    async def forget(self, member: str, ids: Iterable[str] | None = None) -> list[str]:
        """Remove entries from the history, all without `ids`; returns the ids of the removed ones.

        Their files stay, as on a local ComfyUI. It takes a unit for each `CHUNK` of entries, so
        that others write in between.
        """
        if ids is None:
            ((newest,),) = await self._all(_LAST, {"m": member})
            parts: Iterator[ColumnElement[bool]] = repeat(history.c.sequence <= (newest or 0))
        else:
            wanted = list(dict.fromkeys(ids))
            parts = (history.c.id.in_(part) for part in chunks(wanted))
        gone: list[str] = []
        for part in parts:
            query = select(history.c.key, history.c.id).where(_MINE, part).limit(CHUNK)
            forgotten = await self.write(partial(_forget_found, member, query))
            gone += forgotten
            if ids is None and len(forgotten) < CHUNK:
                break
        return gone


def _first_page(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first entries, by sequence and bytes, that are read at once."""
    total = 0
    for count, (_, size) in enumerate(sizes):
        total += size
        if count and total > PAGE_BYTES:
            return sizes[:count]
    return sizes


def add_history(connection: Connection, job: LiveRow, ended: EndedJob) -> None:
    """Write an entry of the history in the caller's unit, instead of one with the same id."""
    previous = run(connection, _PREVIOUS, {"m": job.member, "i": job.id}).one_or_none()
    if previous is not None:
        key, sequence = tuple(previous)
        run(connection, _DROP, {"job_key": key})
        run(connection, _DROP_PAYLOAD, {"job_key": key})
    else:
        # No other unit gets this place, also where several write at once.
        first = {"member": job.member, "ended": 1}
        sequence = run(connection, _PLACED, first).scalar_one()
    run(
        connection,
        _ADD,
        {
            "key": job.key,
            "member": job.member,
            "id": job.id,
            "sequence": sequence,
            "state": ended.state,
            "number": codec.dumps(job.number),
            "workflow_id": job.workflow_id,
            "client_id": job.client_id,
            "cloud_id": ended.cloud_id or job.cloud_id,
            "created_at": job.created_at,
            "started_at": ended.started_at,
            "ended_at": ended.ended_at,
            "outputs_to_execute": codec.dumps(ended.outputs_to_execute),
            "summary": ended.summary,
            "result": ended.result,
            "label": job.label,
            "details": ended.details,
        },
    )


def forget_beyond(connection: Connection, member: str, keep: int) -> list[str]:
    """Remove the member's oldest entries beyond `keep` with their files, in the caller's unit, at
    most `CHUNK` of them; returns their ids."""
    over = run(connection, _COUNT, {"m": member}).scalar_one() - keep
    if over <= 0:
        return []
    rows = connection.execute(_OLDEST, {"m": member, "limit": min(over, CHUNK)}).all()
    return _forget(connection, member, rows, with_files=True)


def _forget_found(member: str, query: Select[Any], connection: Connection) -> list[str]:
    rows = connection.execute(query, {"m": member}).all()
    return _forget(connection, member, rows, with_files=False)


def _forget(
    connection: Connection, member: str, rows: Sequence[Any], *, with_files: bool
) -> list[str]:
    ids = [row.id for row in rows]
    if ids:
        keys = [{"job_key": row.key} for row in rows]
        connection.execute(_DROP, keys)
        connection.execute(_DROP_PAYLOAD, keys)
        forget_outputs(connection, member, ids, with_files=with_files)
    return ids
