"""The output directory: outputs as files on this machine, as a local ComfyUI leaves them.

An output is there before its job has ended for clients, so that programs that read the directory
instead of `GET /view` find it. What cannot be written then is written later.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from proxy.files.cache import read_at, write_all
from proxy.files.contents import CHUNK, Content, ContentBrokenError
from proxy.files.disk_folder import DiskFolder, UnusableNameError
from proxy.files.namespace import Namespace
from proxy.files.reader import Reader
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.runtime.clock import now
from proxy.storage.database import StorageError
from proxy.storage.files import FileRepository
from proxy.storage.missing_outputs import MissingOutput
from proxy.translate import names, output_files
from proxy.translate.errors import LocalError
from proxy.translate.names import Place

log = structlog.get_logger(__name__)

#: Seconds for which an end waits for the files of its job. Clients wait for minutes anyway, and
#: this brings 700 MB over a line of 100 Mbit/s; a cloud or a disk that hangs must not keep the
#: end of a job from its client.
MAX_WAIT = 60.0
#: Files of a job that are fetched and written at once.
_MAX_CONCURRENT = 4
#: Between two tries to fetch a file of a job that is about to end.
_FETCH_RETRY = Backoff(0.5, 8.0)
#: Between two tries to write what is missing.
_MISSING_RETRY = Backoff(2.0, 60.0)
#: Seconds after which an output whose content is not available is no longer tried.
_MAX_AGE = 86_400.0
#: Between two tries to read or to note something while the storage refuses.
_STORAGE_RETRY = Backoff(0.05, 2.0, factor=1.7)
#: Missing outputs that are read at once.
_PAGE = 100


class OutputDirectory:
    """Writes outputs to `folder`. `problem` says why the last one could not be written.

    With `links` they are hard links to the files of the cache, where the file system has these.
    """

    def __init__(
        self,
        folder: DiskFolder,
        reader: Reader,
        namespace: Namespace,
        files: FileRepository,
        *,
        links: bool = False,
    ) -> None:
        self.folder = folder
        self._links = links
        self.problem: str | None = None
        self._reader = reader
        self._namespace = namespace
        self._files = files
        self._missing_added = asyncio.Event()

    async def save(self, member: str, outputs: Mapping[str, Any]) -> None:
        """Write the outputs of a job by node, as its history has them, before the job ends.

        Returns after at most `MAX_WAIT` seconds of writing; what is missing then is written later.
        Never raises.
        """
        paths = _paths_of(outputs)
        if not paths:
            return
        missing = dict.fromkeys(paths)
        try:
            async with asyncio.timeout(MAX_WAIT):
                await self._save_all(member, missing)
        except TimeoutError:
            log.warning("outputs_delayed", member=member, files=len(missing), seconds=MAX_WAIT)
        except Exception:  # the end of a job does not depend on its files
            log.exception("outputs_save_crashed", member=member)
        if missing:
            await self._add_missing(member, missing)

    async def run(self) -> None:
        """Write what is missing, until cancelled. Raises `StorageError`."""
        failures = 0
        while True:
            self._missing_added.clear()
            if await self._write_missing():
                failures += 1
                await asyncio.sleep(_MISSING_RETRY.whole(failures))
            else:
                failures = 0
                await self._missing_added.wait()

    async def _save_all(self, member: str, missing: dict[str, None]) -> None:
        """Write files, and take those out of `missing` for which nothing is left to do."""
        turn = asyncio.Semaphore(_MAX_CONCURRENT)

        async def save(path: str) -> None:
            async with turn:
                for failures in itertools.count(1):
                    try:
                        await self._write(member, path)
                    except (LocalError, ContentBrokenError, StorageError) as error:
                        log.info("output_fetch_failed", path=path, reason=str(error))
                        await asyncio.sleep(_FETCH_RETRY.after(failures))
                    except OSError:
                        return
                    else:
                        missing.pop(path)
                        return

        async with asyncio.TaskGroup() as tasks:
            for path in list(missing):
                tasks.create_task(save(path))

    async def _write(self, member: str, path: str) -> None:
        """Write one file, unless its content or the name is not to be had for good.

        Raises `LocalError` and `ContentBrokenError` for a content that may be available later,
        `StorageError`, and `OSError` where the disk refuses.
        """
        record = await self._namespace.get(member, Place("output", path))
        if record is None:  # its job was deleted
            return
        try:
            content = await self._reader.open(record)
        except LocalError as error:
            if error.kind != "not_found":
                raise
            log.warning("output_lost", member=member, path=path, reason=error.message)
            return
        # The content is closed by forgetting it: the thread may outlive this task.
        source, folder = await content.whole(), self.folder
        pieces = [piece async for piece in content.pieces()]
        pour = partial(_write_pieces, content, pieces)
        try:
            written = None
            if self._links and not content.edits.edits:
                written = await folder.run(folder.link, member, path, source)
            if written is None:
                written = await folder.run(folder.write, member, path, pour)
            if not written:
                status = await folder.run(folder.status, member, path)
                if status is None or status.size != content.size:
                    raise UnusableNameError(f"{path}: another file has this name")
        except UnusableNameError as error:
            log.error("output_name_rejected", member=member, path=path, reason=str(error))
        except OSError as error:
            self._fail(error)
            raise
        self.problem = None

    def _fail(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        remedy = "free disk space or make it writable"
        if isinstance(error, FileNotFoundError):
            remedy = f"create {self.folder.root} again"
        problem = (
            f"Outputs cannot be written to the output directory ({reason}): {remedy}; the missing "
            "files are written then."
        )
        if problem != self.problem:
            log.error("output_write_failed", folder=str(self.folder.root), reason=reason)
        self.problem = problem

    # --- what is missing -------------------------------------------------------------------------

    async def _add_missing(self, member: str, paths: Iterable[str]) -> None:
        """Note what is to be written later, once the storage takes it."""
        since = now()
        missing = [MissingOutput(member, path, since) for path in paths]
        for failures in itertools.count(1):
            try:
                await self._files.write(lambda files: files.missing.add(missing))
                break
            except StorageError:
                await asyncio.sleep(_STORAGE_RETRY.whole(failures))
        self._missing_added.set()

    async def _write_missing(self) -> bool:
        """Try the missing outputs until the disk refuses one; return whether any is left."""
        last: MissingOutput | None = None
        is_left = is_refused = False
        while not is_refused and (page := await self._page(last)):
            last, done = page[-1], []
            for output in page:
                try:
                    if await self._is_done(output):
                        done.append(output)
                    else:
                        is_left = True
                except OSError:
                    is_left = is_refused = True
                    break
            await self._delete(done)
        return is_left

    async def _page(self, last: MissingOutput | None) -> Sequence[MissingOutput]:
        return await self._files.read(lambda files: files.missing.page(last, limit=_PAGE))

    async def _delete(self, done: Sequence[MissingOutput]) -> None:
        if done:
            await self._files.write(lambda files: files.missing.delete(done))

    async def _is_done(self, output: MissingOutput) -> bool:
        """Return whether nothing is left to do. Raises `OSError` where the disk refuses."""
        try:
            async with asyncio.timeout(MAX_WAIT):
                await self._write(output.member, output.path)
        except (LocalError, ContentBrokenError, TimeoutError) as error:
            if clock.time() - output.missing_since / 1000 < _MAX_AGE:
                return False
            log.warning("output_lost", member=output.member, path=output.path, reason=str(error))
            return True
        log.info("late_output_written", member=output.member, path=output.path)
        return True


def _paths_of(outputs: Mapping[str, Any]) -> list[str]:
    """Return the paths of what nodes have saved: previews are no files of the directory."""
    paths: dict[str, None] = {}
    for _, (_, _, name, item) in output_files.files_of(outputs):
        if item.get("type") == "output":
            path = names.resolve("output", str(item.get("subfolder") or ""), name)
            if path:
                paths[path] = None
    return list(paths)


def _write_pieces(
    content: Content, pieces: Sequence[bytes | tuple[int, int]], descriptor: int
) -> None:
    """Write a complete content to a descriptor, in a thread."""
    for piece in pieces:
        if isinstance(piece, bytes):
            write_all(descriptor, piece)
            continue
        position, end = piece
        while position < end:
            data = read_at(content.file, min(CHUNK, end - position), position)
            if not data:
                raise ContentBrokenError("the file on disk is shorter than it was")
            write_all(descriptor, data)
            position += len(data)
