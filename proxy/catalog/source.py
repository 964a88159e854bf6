"""Where the catalog comes from, and how it is kept on the disk and in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import structlog
from cachetools import TLRUCache
from msgspec import Struct
from yarl import URL

from proxy.cloud.resilience import CloudError, CloudUnreachable
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    from proxy.cloud.client import CloudClient

T = TypeVar("T")

#: Bytes and media type.
Picture: TypeAlias = tuple[bytes, str]


class Accounts:
    """Several accounts as one source.

    `order` gives those that may be asked, the best first. Most answers are the same for all
    accounts, so one is enough; what differs is asked of each of the `named`.
    """

    def __init__(
        self,
        base_url: URL,
        order: Callable[[], Sequence[CloudClient]],
        named: Mapping[str, CloudClient] | None = None,
    ) -> None:
        self.base_url = base_url
        self.named = named or {}
        self._order = order

    async def ask(self, question: Callable[[CloudClient], Awaitable[T]]) -> T:
        """The answer of the first account that gives one. Raises `CloudError`, that of the first
        account, if none does."""
        problem: CloudError | None = None
        for cloud in self._order():
            try:
                return await question(cloud)
            except CloudError as error:
                log.info("account_skipped", reason=str(error))
                problem = problem or error
        raise problem or CloudUnreachable("there is no account to ask")

    async def ask_each(self, question: Callable[[CloudClient], Awaitable[T]]) -> dict[str, T]:
        """The answers of the accounts that give one, one after the other, by their names. Raises
        `CloudError`, that of the first account, if none does."""
        answers: dict[str, T] = {}
        problem: CloudError | None = None
        for name, cloud in self.named.items():
            try:
                answers[name] = await question(cloud)
            except CloudError as error:
                log.info("account_skipped", account=name, reason=str(error))
                problem = problem or error
        if not answers:
            raise problem or CloudUnreachable("there is no account to ask")
        return answers


#: Seconds before the cloud is asked again after it has failed.
PAUSE = 10.0


class CachedResource(Generic[T]):
    """What `fetch` gets and `read` understands (it raises `ValueError` otherwise).

    It is served from memory, then from `path`, and only without either does a caller wait for the
    cloud; callers that wait together cause one call. Older than `max_age` (seconds) it is still
    served, while it is being fetched again. How old a copy on disk is, only the clock on the wall
    can tell; from then on its age does not depend on that clock.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        fetch: Callable[[], Awaitable[bytes]],
        read: Callable[[bytes], T],
        *,
        max_age: float,
    ) -> None:
        self._name = name
        self._path = path
        self._fetch = fetch
        self._read = read
        self._max_age = max_age
        #: What is in memory now.
        self.value: T | None = None
        self._asked_at = self._fetched_at = 0.0  # by the monotonic clock
        self._looking = asyncio.Lock()
        self._looked_on_disk = False
        self._refreshing: asyncio.Task[None] | None = None
        self._failed_at: float | None = None
        self._failure = ""

    async def get(self) -> T:
        """The document. Raises `LocalError` (503) when there is none and the cloud gives none."""
        await self._look_on_disk()
        if self.value is None or time.monotonic() - self._fetched_at > self._max_age:
            refreshing = self._refresh()
            if self.value is None and refreshing is not None:
                await asyncio.shield(refreshing)
        if self.value is None:
            raise LocalError(
                "catalog_unavailable",
                f"The proxy has not received the {self._name} from Comfy Cloud; try again later.",
                kind="unavailable",
                details=self._failure,
                retry_after=PAUSE,
            )
        return self.value

    async def renewed(self, age: float, *, timeout: float) -> bool:
        """Fetch the document again if it is older than `age`, and wait up to `timeout` seconds.

        Says whether it is another one now.
        """
        before = self.value
        if time.monotonic() - self._fetched_at > age and (refreshing := self._refresh()):
            await asyncio.wait([refreshing], timeout=timeout)
        return self.value is not before

    async def reread(self, *, timeout: float) -> bool:
        """Fetch the document after this call began, and wait up to `timeout` seconds.

        Says whether that was done. Callers that wait together cause one call.
        """
        began = time.monotonic()
        if self._is_loading() and self._refreshing is not None:  # it may have been asked before
            await asyncio.wait([self._refreshing], timeout=timeout)
        if self._asked_at < began and (refreshing := self._refresh()) is not None:
            left = timeout - (time.monotonic() - began)
            await asyncio.wait([refreshing], timeout=max(0.0, left))
        return self._asked_at >= began

    def _is_loading(self) -> bool:
        return self._refreshing is not None and not self._refreshing.done()

    async def close(self) -> None:
        """Stop fetching."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def _refresh(self) -> asyncio.Task[None] | None:
        """The refresh that runs now, or a new one; `None` so soon after a failure."""
        if self._refreshing is None or self._refreshing.done():
            if self._failed_at is not None and time.monotonic() - self._failed_at < PAUSE:
                return None
            self._refreshing = asyncio.create_task(self._load(), name=f"refresh {self._name}")
        return self._refreshing

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            body = await self._fetch()
            self.value = await asyncio.to_thread(self._read, body)
        except (CloudError, ValueError) as error:
            self._failed_at = time.monotonic()
            self._failure = str(error)
            log.warning("catalog_refresh_failed", what=self._name, error=self._failure)
            return
        self._asked_at, self._fetched_at = began, time.monotonic()
        self._failed_at = None
        try:
            await asyncio.to_thread(_write, self._path, body)
        except OSError as error:
            log.warning("catalog_save_failed", what=self._name, error=str(error))

    async def _look_on_disk(self) -> None:
        if self._looked_on_disk:
            return
        async with self._looking:
            if self._looked_on_disk:
                return
            try:
                body, modified = await asyncio.to_thread(_read_file, self._path)
                self.value = await asyncio.to_thread(self._read, body)
                self._fetched_at = time.monotonic() - max(0.0, time.time() - modified)
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                log.warning("catalog_copy_rejected", what=self._name, error=str(error))
            self._looked_on_disk = True


def _read_file(path: Path) -> tuple[bytes, float]:
    return path.read_bytes(), path.stat().st_mtime


def _write(path: Path, body: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(body)
    draft.replace(path)


#: Bytes of pictures that are kept.
MAX_BYTES = 32 * 1024 * 1024
#: What a model without a picture counts for.
_ENTRY_BYTES = 256

#: What names a picture at the cloud.
Key: TypeAlias = tuple[str | int, ...]


class _Shown(Struct, frozen=True):
    picture: Picture | None
    until: float

    @property
    def size(self) -> int:
        return _ENTRY_BYTES + (len(self.picture[0]) if self.picture else 0)


class PictureCache:
    """What `ask` gives, the least recently used dropped first.

    Callers that want the same picture together cause one call. Within `max_age` (seconds) nothing
    is asked again, also of models of which the cloud has no picture.
    """

    def __init__(self, ask: Callable[..., Awaitable[Picture | None]], *, max_age: float) -> None:
        self._ask = ask
        self._max_age = max_age
        self._shown: TLRUCache[Key, _Shown] = TLRUCache(
            MAX_BYTES, lambda _key, shown, _now: shown.until, getsizeof=lambda shown: shown.size
        )
        self._asking: dict[Key, asyncio.Task[Picture | None]] = {}

    async def close(self) -> None:
        """Stop asking."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def get(self, *key: str | int) -> Picture | None:
        """A picture; `None` if the cloud has none or cannot be asked."""
        shown = self._shown.get(key)
        if shown is not None:
            return shown.picture
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._load(key), name="fetch a picture")
        return await asyncio.shield(task)

    async def _load(self, key: Key) -> Picture | None:
        age = self._max_age
        try:
            picture = await self._ask(*key)
        except CloudError as error:
            log.info("picture_failed", picture=list(key), error=str(error))
            picture, age = None, PAUSE
        finally:
            self._asking.pop(key, None)
        if picture is not None and not picture[1].startswith(("image/", "audio/")):
            picture = None
        shown = _Shown(picture, time.monotonic() + age)
        if shown.size <= self._shown.maxsize:
            self._shown[key] = shown
        return picture
