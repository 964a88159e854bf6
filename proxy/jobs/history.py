"""The history as clients read it, with a small cache that the bus invalidates; and lists of jobs.

`GET /api/jobs` and `GET /api/jobs/{id}` are in local form, from the proxy's own records.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.bus.base import MISSED, EventBus
from proxy.jobs.models import (
    ENDS,
    OUTCOMES,
    HistoryChanged,
    HistoryForgotten,
    Job,
    JobState,
    LiveJob,
    Outcome,
)
from proxy.jobs.tracker import EventReceived, SendMessage, SnapshotReceived, Tracker
from proxy.storage.history import HistoryEntry, HistoryRepository
from proxy.translate import codec
from proxy.translate.events import Message
from proxy.translate.snapshot import Snapshot

if TYPE_CHECKING:
    from proxy.files.service import Files

#: More entries than any history has; databases take no larger numbers.
_MOST = 2**53

#: Bytes of history bodies that are kept ready to send, and of the largest one.
_CACHE_BYTES, _LARGEST = 16 * 1024 * 1024, 1024 * 1024


class HistoryCache:
    """Bodies of history answers, the ones used last, bounded in bytes."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._bytes = 0
        self._newest: dict[str, int] = {}
        self.version: Counter[str] = Counter()
        self.missed = 0

    def get(self, key: tuple[Any, ...]) -> bytes | None:
        """A body that was kept; its key begins with the member."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    def put(self, key: tuple[Any, ...], body: bytes, version: int) -> None:
        """Keep a body that was read at a `version` of the member, unless it is a large one."""
        if len(body) > _LARGEST or key in self._bodies or self.version[key[0]] != version:
            return
        self._bodies[key] = body
        self._bytes += len(body)
        while self._bytes > _CACHE_BYTES:
            _, old = self._bodies.popitem(last=False)
            self._bytes -= len(old)

    def forget(self, member: str, prompt_ids: Iterable[str] | None) -> None:
        """The member's history has changed: drop its lists, and these entries or all."""
        self.version[member] += 1
        gone = None if prompt_ids is None else set(prompt_ids)
        for key in [key for key in self._bodies if key[0] == member]:
            if len(key) > 2 or gone is None or key[1] in gone:
                self._bytes -= len(self._bodies.pop(key))

    def seen(self, member: str, sequence: int) -> None:
        """An entry was read: where the bus has not reported of it yet, no list has it."""
        if sequence > self._newest.get(member, 0):
            self._newest[member] = sequence
            self.forget(member, ())  # lists alone

    def clear(self) -> None:
        """Anything may have changed."""
        self.missed += 1
        for member in {key[0] for key in self._bodies} | set(self.version):
            self.forget(member, None)


class History:
    """The ended jobs of all members; with those that go, their `files` go."""

    def __init__(self, bus: EventBus, repository: HistoryRepository, files: Files | None) -> None:
        self._bus = bus
        self._repository = repository
        self._files = files
        self._cache = HistoryCache()
        bus.subscribe("jobs.*", self._hear)
        self._process = secrets.token_hex(4)

    def _hear(self, news: object) -> None:
        match news:
            case HistoryChanged(member=member, prompt_id=prompt_id, forgotten=forgotten):
                self._cache.forget(member, [prompt_id, *forgotten])
                if forgotten and self._files is not None:
                    self._files.forgotten(member, forgotten)
            case HistoryForgotten(member=member, prompt_ids=prompt_ids):
                self._cache.forget(member, prompt_ids)
            case _ if news is MISSED:
                self._cache.clear()

    def word(self, member: str | None) -> str:
        """Another word whenever the ended jobs of the member, or of all (`None`), are others."""
        version = self._cache.version
        count = version.total() if member is None else version[member]
        return f"{self._process}.{self._cache.missed}.{count}"

    async def json(
        self, member: str, *, max_items: int | None, offset: int | None
    ) -> bytes | AsyncIterator[bytes]:
        """The body of `GET /history`, oldest first; a large one in pieces. Raises `StorageError`.

        `max_items` without `offset` means the last ones, with it those from the oldest on; a
        negative `offset` counts as none. ComfyUI's own arithmetic for odd values: without offset,
        0 and less give nothing; with one, at least one item comes.
        """
        if offset is not None:
            offset = None if offset < 0 else min(offset, _MOST)
        if max_items is not None:
            max_items = min(max_items, _MOST)
        key = (member, "", max_items, offset)
        body = await self._kept(key)
        if body is not None:
            return body
        version = self._cache.version[member]
        if offset is None:
            last = None if max_items is None else max(max_items, 0)
            pages = self._repository.entries(member, last=last)
        else:
            limit = None if max_items is None else max(max_items, 1)
            pages = self._repository.entries(member, offset=offset, limit=limit)
        pieces = _pieces(pages)
        begun: list[bytes] = []
        size = 0
        async for piece in pieces:
            begun.append(piece)
            size += len(piece)
            if size > _LARGEST:
                return _chained(begun, pieces)
        body = b"".join(begun)
        self._cache.put(key, body, version)
        return body

    async def entry_json(self, member: str, prompt_id: str) -> bytes:
        """The body of `GET /history/{id}`: `{}` until the job has ended. Raises `StorageError`."""
        key = (member, prompt_id)
        body = await self._kept(key)
        if body is None:
            version = self._cache.version[member]
            entry = await self._repository.entry(member, prompt_id)
            if entry is None:
                return b"{}"
            body = b"{" + _entry_json(entry) + b"}"
            self._cache.put(key, body, version)
            self._cache.seen(member, entry.sequence)
        return body

    async def _kept(self, key: tuple[Any, ...]) -> bytes | None:
        """A body that is as it would be read now."""
        await self._bus.catch_up()
        return self._cache.get(key) if self._bus.connected else None

    async def entry(self, member: str, prompt_id: str) -> HistoryEntry | None:
        """An entry as it is stored, or `None`. Raises `StorageError`."""
        entry = await self._repository.entry(member, prompt_id)
        if entry is not None:
            self._cache.seen(member, entry.sequence)
        return entry

    async def delete(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Forget ended jobs; nothing is deleted on the cloud. Raises `StorageError`."""
        await self._forget(member, list(prompt_ids))

    async def clear(self, member: str) -> None:
        """Forget all ended jobs of the member. Raises `StorageError`."""
        await self._forget(member, None)

    async def _forget(self, member: str, prompt_ids: list[str] | None) -> None:
        try:
            await self._repository.forget(member, prompt_ids)
        finally:
            told = None if prompt_ids is None else tuple(prompt_ids)
            self._bus.publish(f"jobs.{member}", HistoryForgotten(member, told))
            await self._bus.flush()


def _entry_json(entry: HistoryEntry) -> bytes:
    """`"id": {"prompt": […], "outputs": …, …}`, put together from its parts."""
    parts = (
        entry.number.encode(),
        codec.dump_bytes(entry.id),
        entry.graph,
        entry.extra_data,
        entry.outputs_to_execute.encode(),
    )
    head = codec.dump_bytes(entry.id) + b': {"prompt": [' + b", ".join(parts) + b"], "
    return head + entry.result[1:]


async def _pieces(pages: AsyncIterator[list[HistoryEntry]]) -> AsyncIterator[bytes]:
    """A JSON object of entries, a page at a time."""
    lead = b"{"
    async for page in pages:
        yield lead + b", ".join(map(_entry_json, page))
        lead = b", "
    yield b"{}" if lead == b"{" else b"}"


async def _chained(begun: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in begun:
        yield piece
    async for piece in rest:
        yield piece


STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")

#: Output keys whose items a client can show, in ComfyUI's words.
_PREVIEWABLE = frozenset({"images", "video", "videos", "audio", "gifs", "3d", "text"})


@dataclass(frozen=True, slots=True)
class JobQuery:
    """What `GET /api/jobs` was asked; `statuses` and `workflow_id` of `None` mean all."""

    statuses: frozenset[str] | None = None
    workflow_id: str | None = None
    sort_by: str = "created_at"
    descending: bool = True
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as a list shows it."""

    job: dict[str, Any]
    workflow_id: str | None


def ended_states(statuses: frozenset[str] | None) -> set[str]:
    """The states of ended jobs that have one of the statuses, as they are stored."""
    return {
        state.value for outcome, state in ENDS.items() if statuses is None or outcome in statuses
    }


def of_queue(record: LiveJob) -> Listed:
    """A pending or running job."""
    found = record.workflow_id
    job = {
        "id": record.prompt_id,
        "status": "pending" if record.state is not JobState.RUNNING else "in_progress",
        "priority": record.number,
        "create_time": record.create_time,
        "execution_start_time": record.started_at,
        "outputs_count": 0,
        "workflow_id": found,
    }
    return Listed(_without_nulls(job), found)


def of_history(
    record: Job,
    outcome: Outcome,
    outputs: dict[str, Any],
    status: dict[str, Any],
    started_at: int,
    ended_at: int,
) -> Listed:
    """An ended job. `execution_error` is the whole event, of failed jobs only."""
    found = record.workflow_id
    count, previewable, preview = _summary(outputs)
    error = None
    if outcome == "failed":
        error = next(
            (data for type_, data in status["messages"] if type_ == "execution_error"), None
        )
    job = {
        "id": record.prompt_id,
        "status": outcome,
        "priority": record.number,
        "create_time": record.create_time,
        "execution_start_time": started_at,
        "execution_end_time": ended_at,
        "outputs_count": count,
        "previewable_outputs_count": previewable,
        "preview_output": preview,
        "execution_error": error,
        "workflow_id": found,
    }
    return Listed(_without_nulls(job), found)


def select(jobs: Iterable[Listed], query: JobQuery, *, unread: int = 0) -> dict[str, Any]:
    """The answer of `GET /api/jobs`: `{"jobs": […], "pagination": {…}}`.

    `unread` more jobs come behind all of these.
    """
    found = [
        listed.job
        for listed in jobs
        if (query.statuses is None or listed.job["status"] in query.statuses)
        and (query.workflow_id is None or listed.workflow_id == query.workflow_id)
    ]
    order = _duration if query.sort_by == "execution_duration" else _created
    found.sort(key=order, reverse=query.descending)
    stop = None if query.limit is None else query.offset + query.limit
    page = found[query.offset : stop]
    return {
        "jobs": page,
        "pagination": {
            "offset": query.offset,
            "limit": query.limit,
            "total": len(found) + unread,
            "has_more": query.offset + len(page) < len(found) + unread,
        },
    }


def _created(job: dict[str, Any]) -> int:
    return int(job["create_time"])


def _duration(job: dict[str, Any]) -> int:
    return int(job.get("execution_end_time", 0)) - int(job.get("execution_start_time", 0))


def _summary(outputs: dict[str, Any]) -> tuple[int, int, dict[str, Any] | None]:
    """How many items there are, how many can be shown, and the one that stands for the job."""
    count = previewable = 0
    preview: dict[str, Any] | None = None
    for node_id, output in outputs.items():
        for media, items in output.items() if isinstance(output, dict) else ():
            if media == "animated" or not isinstance(items, list):
                continue
            count += len(items)
            if media not in _PREVIEWABLE:
                continue
            previewable += len(items)
            for item in items:
                if isinstance(item, dict) and _better(item, preview):
                    preview = {**item, "nodeId": node_id, "mediaType": media}
    return count, previewable, preview


def _better(item: dict[str, Any], than: dict[str, Any] | None) -> bool:
    """The first saved file, or else the first temporary one."""
    if than is None:
        return True
    return item.get("type") == "output" and than.get("type") != "output"


def _without_nulls(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}


def life_of(entry: HistoryEntry) -> list[Message]:
    """The messages of an ended job, as its entry of the history has them."""
    result = codec.loads(entry.result)
    tracker = Tracker(entry.id, codec.loads(entry.graph))
    commands = []
    for type_, data in result["status"]["messages"]:
        commands += tracker.receive(EventReceived(type_, data), entry.started_at)
    snapshot = Snapshot(
        entry.id,
        OUTCOMES[entry.state],
        settled=True,
        start_time=entry.started_at,
        end_time=entry.ended_at,
        outputs=result["outputs"],
        execution_status=result["status"],
        meta=result["meta"],
    )
    commands += tracker.receive(SnapshotReceived(snapshot), entry.ended_at)
    return [one.message for one in commands if isinstance(one, SendMessage)]
