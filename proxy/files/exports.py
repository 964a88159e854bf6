"""Exports: many assets in one archive, which is created while it is downloaded.

An export reads every content once, so that it is in the cache and its size is known; only the list
of files is stored. So the next leader can send the archive, too, and no process stores it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import msgspec
import structlog

from proxy.files.contents import ContentBrokenError
from proxy.files.service import Files
from proxy.runtime import clock, randomness
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.turns import Turns
from proxy.storage.assets import AssetRepository
from proxy.storage.database import StorageError
from proxy.storage.temporary import STALE, Export, ExportRepository
from proxy.translate import asset_exports, codec
from proxy.translate.asset_exports import FailedAsset
from proxy.translate.assets import Asset, AssetError
from proxy.translate.errors import LocalError
from proxy.translate.events import Event
from proxy.translate.names import Place

if TYPE_CHECKING:
    from proxy.translate.asset_requests import ExportRequest

_log = structlog.get_logger(__name__)

#: Maximum number of concurrent exports, and of a member's exports that run or wait.
MAX_CONCURRENT, MAX_UNFINISHED = 2, 16
#: Approximate bytes of memory for each byte of a request.
_HELD_BYTES = 4
#: Maximum bytes of the files of an archive; a larger one would need another format.
MAX_BYTES = 2**31 - 2**20
#: Minimum seconds between two messages about an export.
MESSAGE_INTERVAL = 0.5
#: Seconds between two notes that an export continues, well within `STALE` (ms).
BEAT = STALE / 3000


class ArchiveEntry(msgspec.Struct, frozen=True):
    """A file of an archive: its name there, its place, its size in bytes, and its time (s)."""

    name: str
    type: str
    path: str
    size: int
    modified: float


@dataclass(eq=False)
class Exports:
    """The exports of all members. `send` tells all sockets of a member how far each is."""

    _assets: AssetRepository
    _files: Files
    _supervisor: Supervisor
    _repository: ExportRepository
    _send: Callable[[str, Event], None]
    _budget: MemoryBudget
    _turns: Turns = field(init=False, default_factory=lambda: Turns(MAX_CONCURRENT, MAX_CONCURRENT))
    _unfinished: Counter[str] = field(init=False, default_factory=Counter)

    async def begin(self, member: str, request: ExportRequest) -> str:
        """Start an export, or join the same one under way. Return its id.

        Raises `LocalError` (413, 429) beyond a member's limits, `StorageError`.
        """
        if self._unfinished[member] >= MAX_UNFINISHED:
            raise LocalError(
                "too_many_exports",
                f"You have {MAX_UNFINISHED} exports under way; wait until one has ended.",
                kind="rate_limited",
                retry_after=MESSAGE_INTERVAL,
            )
        with ExitStack() as held:
            payload = codec.dump_bytes(request.model_dump())
            held.enter_context(self._budget.member(member, "export")).grow(
                _HELD_BYTES * len(payload)
            )
            self._unfinished[member] += 1
            held.callback(self._finish, member)
            return await self._begin(member, request, payload, held)

    def _finish(self, member: str) -> None:
        self._unfinished[member] -= 1
        if not self._unfinished[member]:
            del self._unfinished[member]

    async def _begin(
        self, member: str, request: ExportRequest, payload: bytes, held: ExitStack
    ) -> str:
        now = clock.now()
        today = datetime.fromtimestamp(now / 1000, UTC).date()
        export, is_new = await self._repository.begin(
            Export(
                member,
                str(randomness.uuid4()),
                request.key,
                "created",
                f"comfy-export-{today.isoformat()}-{randomness.token_hex(4)}.zip",
                payload,
                now,
                now,
            )
        )
        if is_new:
            work = self._run(export, request, held.pop_all())
            self._supervisor.spawn(work, "export assets")
        return export.id

    async def task(self, member: str, id_: str) -> dict[str, Any]:
        """Return the progress of an export. Raises `AssetError` (404), `StorageError`."""
        export = await self._repository.get(member, id_)
        if export is None:
            raise AssetError("TASK_NOT_FOUND", "There is no such task.", kind="not_found", id=id_)
        return asset_exports.task(
            export.id,
            export.key,
            codec.loads(export.payload),
            export.status,
            None if export.result is None else codec.loads(export.result),
            created_at=export.created_at,
            updated_at=export.updated_at,
            ended_at=export.ended_at,
            stopped=export.is_stale(clock.now()),
        )

    async def cancel(self, member: str, id_: str) -> None:
        """Cancel an export that waits or runs.

        Raises `AssetError`: 404, or 409 for one that has ended; `StorageError`.
        """
        export = await self._repository.get(member, id_)
        if export is None:
            raise AssetError("TASK_NOT_FOUND", "There is no such task.", kind="not_found", id=id_)
        now, error = clock.now(), "The export was cancelled."
        result = codec.dump_bytes({"success": False, "error": error})
        ended = {"status": "failed", "ended_at": now, "result": result}
        if export.is_stale(now) or not await self._repository.update(member, id_, now, **ended):
            raise AssetError(
                "TASK_NOT_CANCELLABLE", "The task has ended already.", kind="conflict", id=id_
            )
        self._say(export, ExportProgress(0), "failed", error=error)

    async def _is_wanted(self, export: Export) -> bool:
        """Return whether an export exists and was not cancelled."""
        stored = await self._repository.get(export.member, export.id)
        return stored is not None and stored.ended_at is None

    async def archive(self, member: str, name: str) -> Archive | None:
        """Return a complete archive by its name, or `None`. Raises `StorageError`."""
        export = await self._repository.named(member, name)
        if export is None or export.entries is None:
            return None
        entries = msgspec.json.decode(export.entries, type=list[ArchiveEntry])
        return Archive(self._files, member, export.name, entries)

    # --- the work ----------------------------------------------------------------------------

    async def _run(self, export: Export, request: ExportRequest, held: ExitStack) -> None:
        """Run an export, and release its memory."""
        with held:
            await self._run_in_turn(export, request)

    async def _run_in_turn(self, export: Export, request: ExportRequest) -> None:
        beat = self._supervisor.spawn(self._beat(export), "keep an export alive")
        try:
            async with self._turns.hold(export.member):
                if await self._is_wanted(export):
                    await self._export(export, request)
        except BaseException:
            failed = {"status": "failed", "ended_at": clock.now()}
            with suppress(StorageError):
                await self._repository.update(export.member, export.id, clock.now(), **failed)
            self._say(export, ExportProgress(0), "failed", error="The server could not export.")
            raise
        finally:
            beat.cancel()

    async def _beat(self, export: Export) -> None:
        """Note regularly that an export runs or waits for its turn."""
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._repository.update(export.member, export.id, clock.now())
            except StorageError as error:
                _log.warning("export_write_failed", member=export.member, error=str(error))

    async def _export(self, export: Export, request: ExportRequest) -> None:
        member = export.member
        of_jobs = await self._assets.read(lambda unit: unit.of_jobs(member, request.job_ids))
        named = await self._assets.read(lambda unit: unit.get_many(member, request.asset_ids))
        plan = asset_exports.plan(request, of_jobs, named)
        bytes_total = sum(asset.size or 0 for asset in plan.entries.values())
        progress = ExportProgress(plan.total, list(plan.failed), bytes_total)
        if not await self._repository.update(member, export.id, clock.now(), status="running"):
            return
        self._say(export, progress, "running")
        sent_at = clock.time()
        for name, asset in plan.entries.items():
            if not await self._is_wanted(export):
                return
            entry = await self._fetch(name, asset, MAX_BYTES - progress.bytes)
            if entry is None:
                progress.failed.append(FailedAsset(asset.id, "fetch_failed", asset.job, asset.name))
            else:
                progress.entries.append(entry)
                progress.bytes += entry.size
            if clock.time() - sent_at >= MESSAGE_INTERVAL:
                sent_at = clock.time()
                self._say(export, progress, "running")
        await self._end(export, progress, timeless=plan.timeless)

    async def _fetch(self, name: str, asset: Asset, max_bytes: int) -> ArchiveEntry | None:
        """Read a content once, and return its entry; `None` if it is not available or too large."""
        try:
            file = await self._files.namespace.get(asset.member, asset.place)
            if file is None:
                return None
            with closing(await self._files.open(file)) as content:
                size = 0
                async for chunk in content.read():
                    size += len(chunk)
                    if size > max_bytes:
                        return None
        except (LocalError, ContentBrokenError) as error:
            _log.info("export_fetch_failed", member=asset.member, reason=str(error))
            return None
        return ArchiveEntry(name, file.type, file.path, size, file.modified)

    async def _end(self, export: Export, progress: ExportProgress, *, timeless: bool) -> None:
        entries, success, now = progress.entries, bool(progress.entries), clock.now()
        outcome = (
            {"export_name": export.name} if success else {"error": "Nothing could be exported."}
        )
        result: dict[str, Any] = {
            "success": success,
            **outcome,
            "export_size": archive_size(entries) if success else 0,
            "uncompressed_size": progress.bytes,
            "assets_total": progress.total,
            "assets_succeeded": len(entries),
        }
        if progress.failed:
            result["failed_assets"] = [failed.shown() for failed in progress.failed]
        ended = {
            "status": "completed",
            "ended_at": now,
            "result": codec.dump_bytes(result),
            "entries": msgspec.json.encode(entries) if success else None,
        }
        if not await self._repository.update(export.member, export.id, now, **ended):
            return
        fallback = {"used_job_time_fallback": True} if timeless else {}
        self._say(export, progress, "completed" if success else "failed", **outcome, **fallback)

    def _say(self, export: Export, progress: ExportProgress, status: str, **more: Any) -> None:
        data = {"task_id": export.id, **progress.shown(), "status": status, **more}
        self._send(export.member, Event("asset_export", data))


class ExportProgress(msgspec.Struct):
    """The progress of an export."""

    total: int
    failed: list[FailedAsset] = []
    bytes_total: int = 0
    entries: list[ArchiveEntry] = []
    bytes: int = 0

    def shown(self) -> dict[str, Any]:
        """Return the progress as clients get it."""
        attempted = len(self.failed) + len(self.entries)
        return {
            "assets_total": self.total,
            "assets_attempted": attempted,
            "assets_failed": len(self.failed),
            "bytes_total": max(self.bytes, self.bytes_total),
            "bytes_processed": self.bytes,
            "progress": attempted / self.total if self.total else 1.0,
        }


@dataclass(eq=False)
class Archive:
    """A zip archive without compression, created while it is read."""

    _files: Files
    _member: str
    name: str
    _entries: Sequence[ArchiveEntry]

    @cached_property
    def size(self) -> int:
        """The size of the archive in bytes."""
        return archive_size(self._entries)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the archive. Raises `ContentBrokenError` if a content has changed."""
        buffer = _WriteBuffer()
        archive = ZipFile(buffer, "w", ZIP_STORED)  # type: ignore[call-overload]
        for entry in self._entries:
            with archive.open(_info(entry), "w") as target:
                size = 0
                async for chunk in self._content(entry):
                    size += len(chunk)
                    target.write(chunk)
                    yield buffer.drain()
                if size != entry.size:
                    raise ContentBrokenError("the content of an exported file has changed")
        archive.close()
        yield buffer.drain()

    async def _content(self, entry: ArchiveEntry) -> AsyncIterator[bytes]:
        file = await self._files.namespace.get(self._member, Place(entry.type, entry.path))
        if file is None:
            raise ContentBrokenError("an exported file is gone")
        try:
            content = await self._files.open(file)
        except LocalError as error:
            raise ContentBrokenError(str(error)) from error
        with closing(content):
            async for chunk in content.read():
                yield chunk


class _WriteBuffer:
    """Buffers what an archive writes, without seeking."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: `drain` returns everything."""

    def drain(self) -> bytes:
        """Return what was written since the last call."""
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def archive_size(entries: Sequence[ArchiveEntry]) -> int:
    """Return the size of an archive: that of one with empty files, plus the sizes of its files."""
    buffer = _WriteBuffer()
    with ZipFile(buffer, "w", ZIP_STORED) as archive:  # type: ignore[call-overload]
        for entry in entries:
            with archive.open(_info(entry), "w"):
                pass
    return buffer.size + sum(entry.size for entry in entries)


def _info(entry: ArchiveEntry) -> ZipInfo:
    at = time.gmtime(max(entry.modified, 315532800.0))  # zip archives have no times before 1980
    return ZipInfo(entry.name.encode("utf-8", "replace").decode(), at[:6])
