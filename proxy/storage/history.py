"""The ended jobs of all members: entries of the history, lists and searches of them.

A payload (`job_payloads`) belongs to its entry as it belonged to the job, with the same order.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
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

from proxy.storage.budget_notices import BudgetNotice
from proxy.storage.database import Repository
from proxy.storage.files import forget_outputs
from proxy.storage.job_tables import HistoryEntry, history, job_numbers
from proxy.storage.payloads import delete_payloads, job_payloads
from proxy.storage.statements import CHUNK, Upsert, run

#: History entries that are read at once when many are sent, and their bytes if they are several.
PAGE = 64
PAGE_BYTES = 1024 * 1024
#: Entries that are removed at once.
_FORGOTTEN = 20
#: Maximum number of ended jobs on a page of a search.
MAX_FOUND = 100


class Recorded(Struct, frozen=True):
    """A job that is in the history now. `forgotten` are the ids of the entries that made room for
    it. `noticed` are the budgets that are near or reached since this end."""

    forgotten: tuple[str, ...] = ()
    noticed: tuple[BudgetNotice, ...] = ()


_ORDER = bindparam("job_order", type_=BigInteger)
_MINE = history.c.member == bindparam("m")
_ADD = insert(history)
_COLUMNS = [column.name for column in history.c]
_DROP = delete(history).where(history.c.order == _ORDER)
_HAS = select(history.c.order).where(history.c.order == _ORDER)
_CLOUD_IDS = (
    select(history.c.cloud_id)
    .where(history.c.cloud_id != "")
    .order_by(history.c.order.desc())
    .limit(bindparam("limit"))
)
_PREVIOUS = select(history.c.order, history.c.sequence).where(
    _MINE, history.c.prompt_id == bindparam("i")
)
_LAST = select(func.max(history.c.sequence)).where(_MINE)
_OLDEST_SIZES = (
    select(history.c.prompt_id, job_payloads.c.size)
    .join(job_payloads, job_payloads.c.order == history.c.order)
    .where(_MINE)
    .order_by(history.c.sequence)
    .limit(CHUNK)
)
_COUNT = select(func.count()).select_from(history).where(_MINE)
_OLDEST = (
    select(history.c.order, history.c.prompt_id)
    .where(_MINE)
    .order_by(history.c.sequence)
    .limit(bindparam("limit", type_=BigInteger))
)
_SENT = (job_payloads.c.graph, job_payloads.c.extra_data)
_ENTRY = (
    select(history, *_SENT).join(job_payloads, job_payloads.c.order == history.c.order).where(_MINE)
)
_ENTRY_OF = _ENTRY.where(history.c.prompt_id == bindparam("i"))
_ENTRIES = (
    _ENTRY.where(
        history.c.sequence >= bindparam("first", type_=BigInteger),
        history.c.sequence <= bindparam("last", type_=BigInteger),
    )
    .order_by(history.c.sequence)
    .limit(PAGE)
)
_BYTES = (history.c.summary, history.c.result, *_SENT)
_SIZES = _ENTRIES.with_only_columns(
    history.c.sequence, sum((func.length(column) for column in _BYTES), literal(0))
)
_SEQUENCES = select(history.c.sequence).where(_MINE)
_ONE_LISTED = select(*(column for column in history.c if column is not history.c.result))
_LISTED = _ONE_LISTED.with_only_columns(
    *(column for column in history.c if column.name not in ("result", "node_times"))
)
_ENDED = Upsert(job_numbers, "ended", how="next")


class HistoryRepository(Repository):
    """The history of all members."""

    async def has(self, order: int) -> bool:
        """Return whether a job is in the history."""
        return await self._first(_HAS, {"job_order": order}) is not None

    async def newest_cloud_ids(self, limit: int) -> list[str]:
        """Return the ids on the cloud of at most `limit` jobs that have ended, the newest first."""
        return [row.cloud_id for row in await self._all(_CLOUD_IDS, {"limit": limit})]

    async def entry(self, member: str, prompt_id: str) -> HistoryEntry | None:
        """Return an entry of the history."""
        return await self._record(HistoryEntry, _ENTRY_OF, {"m": member, "i": prompt_id})

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
            if entries := await self._records(HistoryEntry, _ENTRIES, found):
                yield entries
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
        places = (value.desc() if descending else value, history.c.sequence)
        first = select(history.c.order).where(wanted).order_by(*places).limit(limit).subquery()
        query = (
            select(history.c.summary)
            .join(first, first.c.order == history.c.order)
            .order_by(*places)
        )
        count = select(func.count()).select_from(history).where(wanted)

        def work(connection: Connection) -> tuple[list[bytes], int]:
            found = connection.execute(query, {"m": member}).scalars().all()
            return list(found), connection.execute(count, {"m": member}).scalar_one()

        return await self.database.read(work)

    async def search(
        self,
        member: str | None,
        *,
        states: Collection[str] = (),
        text: str = "",
        before: tuple[int, int] | None = None,
        limit: int,
    ) -> list[HistoryEntry]:
        """Return ended jobs of a member, or of all, the newest first, at most `MAX_FOUND`.

        Those after the job with this end and order (`before`), in one of the states, and with the
        text in their label, id or member, in large or small letters.
        """
        query = _LISTED.order_by(history.c.ended_at.desc(), history.c.order.desc())
        if member is not None:
            query = query.where(history.c.member == member)
        if states:
            query = query.where(history.c.state.in_(sorted(states)))
        if text:
            fields = (history.c.label, history.c.prompt_id, history.c.member)
            query = query.where(or_(*(field.icontains(text, autoescape=True) for field in fields)))
        if before is not None:
            at, order = before
            after = or_(history.c.ended_at < at, history.c.order < order)
            query = query.where(history.c.ended_at <= at, after)
        return await self._records(HistoryEntry, query.limit(min(limit, MAX_FOUND)))

    async def listed(self, member: str, prompt_id: str) -> HistoryEntry | None:
        """Return an ended job as a search finds it, with the times of its nodes."""
        query = _ONE_LISTED.where(history.c.member == member, history.c.prompt_id == prompt_id)
        return await self._record(HistoryEntry, query)

    async def oldest(self, member: str, size: int) -> list[str]:
        """Return the ids of the member's oldest entries whose payloads have so many bytes, or of
        many that have fewer."""
        found: list[str] = []
        for row in await self._all(_OLDEST_SIZES, {"m": member}):
            if size <= 0:
                break
            found.append(row.prompt_id)
            size -= row.size
        return found

    async def forget(self, member: str, ids: Iterable[str] | None = None) -> list[str]:
        """Remove entries from the history, all without `ids`; returns the ids of the removed ones.

        Their files stay, as on a local ComfyUI. It takes several units, so that readers may see
        some of many removed.
        """
        wanted = None if ids is None else list(dict.fromkeys(ids))
        newest = await self._first(_LAST, {"m": member})
        last = 0 if newest is None else newest[0] or 0
        gone: dict[str, None] = {}

        def part(connection: Connection, start: int) -> int | None:
            end = start + _FORGOTTEN
            if wanted is None:
                found, is_last = history.c.sequence <= last, False
            else:
                found, is_last = history.c.prompt_id.in_(wanted[start:end]), end >= len(wanted)
            query = select(history.c.order, history.c.prompt_id).where(_MINE, found)
            rows = connection.execute(query.limit(_FORGOTTEN), {"m": member}).all()
            gone.update(dict.fromkeys(_forget(connection, member, rows, with_files=False)))
            is_last = is_last or (wanted is None and len(rows) < _FORGOTTEN)
            return None if is_last else end

        await self.database.write_in_slices(part, 0)
        return list(gone)


def _first_page(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first entries, by sequence and bytes, that are read at once."""
    total = 0
    for count, (_, size) in enumerate(sizes):
        total += size
        if count and total > PAGE_BYTES:
            return sizes[:count]
    return sizes


def add_history(connection: Connection, entry: HistoryEntry) -> int:
    """Write an entry of the history in the caller's unit, instead of one with the same id, whose
    place it takes; returns how many jobs of the member have ended."""
    # No other unit gets this number, also where several write at once.
    first = {"member": entry.member, "ended": 1}
    ended: int = run(connection, _ENDED, first).scalar_one()
    sequence = ended
    same = {"m": entry.member, "i": entry.prompt_id}
    previous = run(connection, _PREVIOUS, same).one_or_none()
    if previous is not None:
        order, sequence = tuple(previous)
        run(connection, _DROP, {"job_order": order})
        delete_payloads(connection, [order])
    values = {name: getattr(entry, name) for name in _COLUMNS}
    run(connection, _ADD, {**values, "sequence": sequence})
    return ended


def forget_beyond(connection: Connection, member: str, keep: int) -> list[str]:
    """Remove the member's oldest entries beyond `keep` with their files, in the caller's unit, at
    most `_FORGOTTEN` of them; returns their ids."""
    over = run(connection, _COUNT, {"m": member}).scalar_one() - keep
    if over <= 0:
        return []
    rows = connection.execute(_OLDEST, {"m": member, "limit": min(over, _FORGOTTEN)}).all()
    return _forget(connection, member, rows, with_files=True)


def _forget(
    connection: Connection, member: str, rows: Sequence[Any], *, with_files: bool
) -> list[str]:
    ids = [row.prompt_id for row in rows]
    if ids:
        orders = [{"job_order": row.order} for row in rows]
        connection.execute(_DROP, orders)
        delete_payloads(connection, [row.order for row in rows])
        forget_outputs(connection, member, ids, with_files=with_files)
    return ids
