"""The accounts that the catalog is fetched from, and its caches in memory and on disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import structlog
from cachetools import TLRUCache
from msgspec import Struct
from yarl import URL

from proxy.cloud.errors import CloudError, CloudUnreachable
from proxy.runtime import clock
from proxy.runtime.shared_work import SharedWork
from proxy.runtime.waits import stop
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    from proxy.cloud.upstream import CloudDocuments, Upstream

T = TypeVar("T")

#: Bytes and media type.
Picture: TypeAlias = tuple[bytes, str]


class Accounts:
    """Several accounts as one source.

    `order` returns the accounts to ask for documents, the best first. Most answers are the same for
    all accounts, so that one is enough; what differs is requested from each of the `named`.
    `lists` says where the node classes of some of these are listed.
    """

    def __init__(
        self,
        base_url: URL,
        order: Callable[[], Sequence[CloudDocuments]],
        named: Mapping[str, Upstream],
        lists: Mapping[str, Path | URL] | None = None,
    ) -> None:
        self.base_url = base_url
        self.named = named
        self.lists = lists or {}
        self._order = order

    async def ask(self, question: Callable[[CloudDocuments], Awaitable[T]]) -> T:
        """Return the answer of the first account that gives one. If none does, raise the
        `CloudError` of the first account."""
        problem: CloudError | None = None
        for cloud in self._order():
            try:
                return await question(cloud)
            except CloudError as error:
                log.info("account_skipped", reason=str(error))
                problem = problem or error
        raise problem or CloudUnreachable("there is no account to ask")

    @property
    def origin(self) -> str:
        """Where the catalog is from, which a copy of it must be from, too."""
        addresses = {name: str(place) for name, place in self.lists.items()}
        named = [f"{name} {addresses.get(name, '')}".strip() for name in self.named]
        digest = hashlib.sha256("\n".join(named).encode()).hexdigest()
        return f"{self.base_url} {digest}"

    async def ask_each(
        self, names: Iterable[str], question: Callable[[Upstream], Awaitable[T]]
    ) -> dict[str, T]:
        """Return the answers by account, without those that fail; accounts are asked one after the
        other. If all fail, raise the `CloudError` of the first account."""
        answers: dict[str, T] = {}
        problem: CloudError | None = None
        for name in names:
            try:
                answers[name] = await question(self.named[name])
            except CloudError as error:
                log.info("account_skipped", account=name, reason=str(error))
                problem = problem or error
        if not answers:
            raise problem or CloudUnreachable("there is no account to ask")
        return answers


#: Seconds after a failure in which the cloud is not asked again.
PAUSE = 10.0


class CachedResource(Generic[T]):
    """A document of the cloud. `fetch` returns its body; `read` parses it or raises `ValueError`.

    While there is no body, `instead` is read in its place, if there is that. The document is
    served from memory, then from `path`; a caller waits for the cloud only if it is in neither.
    Concurrent callers cause one call. A document older than `max_age` (seconds) is still served
    while it is fetched again. The age of a copy on disk is taken from the wall clock once; after
    that it is measured by the monotonic clock.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        fetch: Callable[[], Awaitable[bytes]],
        read: Callable[[bytes], T],
        *,
        max_age: float,
        instead: bytes | None = None,
    ) -> None:
        self._name = name
        self._instead = instead
        self._path = path
        self._fetch = fetch
        self._read = read
        self._max_age = max_age
        #: The parsed document in memory.
        self.value: T | None = None
        self._asked_at = 0.0  # by the monotonic clock
        self._fetched_at: float | None = None
        self._disk_lock = asyncio.Lock()
        self._looked_on_disk = False
        self._refreshing: asyncio.Task[None] | None = None
        self._failed_at: float | None = None
        self._failure = ""

    async def get(self) -> T:
        """Return the document. Raises `LocalError` (503) if there is no copy and no answer."""
        await self._look_on_disk()
        if self.value is None or self._is_older(self._max_age):
            refreshing = self._refresh()
            if self.value is None and refreshing is not None:
                await asyncio.shield(refreshing)
        if self.value is None:
            raise LocalError(
                "catalog_unavailable",
                f"The proxy has not received the {self._name}; try again later.",
                kind="unavailable",
                details=self._failure,
                retry_after=PAUSE,
            )
        return self.value

    async def renew(self, age: float, *, timeout: float) -> bool:
        """Fetch the document again if it is older than `age`, and wait up to `timeout` seconds.

        Return whether it has changed.
        """
        previous = self.value
        if self._is_older(age) and (refreshing := self._refresh()):
            await asyncio.wait([refreshing], timeout=timeout)
        return self.value is not previous

    async def fetched(self, *, timeout: float) -> bool:
        """Fetch the document if it never was, again after each `PAUSE`, for up to `timeout`
        seconds. Return whether it was."""
        ends = clock.monotonic() + timeout
        await self._look_on_disk()
        while self._fetched_at is None and (left := ends - clock.monotonic()) > 0:
            if (refreshing := self._refresh()) is not None:
                await asyncio.wait([refreshing], timeout=left)
            else:
                await asyncio.sleep(min(left, PAUSE / 10))
        return self._fetched_at is not None

    async def reread(self, *, timeout: float, may_fetch: Callable[[], bool]) -> bool:
        """Fetch the document in a call that begins after this one, waiting up to `timeout` seconds.

        Return whether that was done. Concurrent callers share one call; `may_fetch` says whether
        this one may cause another.
        """
        began = clock.monotonic()
        if self._is_loading() and self._refreshing is not None:  # its answer may be older
            await asyncio.wait([self._refreshing], timeout=timeout)
        shared = self._is_loading()  # by another caller that has waited, too
        if (
            self._asked_at < began
            and (shared or may_fetch())
            and (refreshing := self._refresh()) is not None
        ):
            left = timeout - (clock.monotonic() - began)
            await asyncio.wait([refreshing], timeout=max(0.0, left))
        return self._asked_at >= began

    async def rebuild(self) -> None:
        """Read the document anew: what `read` adds to it has changed."""
        if self._is_loading() and self._refreshing is not None:
            await asyncio.wait([self._refreshing])
        await self._look_on_disk()
        try:
            body, _ = await asyncio.to_thread(_read_file, self._path)
            self.value = await asyncio.to_thread(self._read, body)
        except (OSError, ValueError):  # there is no copy, or not any longer
            self._failed_at = None
            if (refreshing := self._refresh()) is not None:
                await asyncio.wait([refreshing])

    def _is_older(self, age: float) -> bool:
        return self._fetched_at is None or clock.monotonic() - self._fetched_at > age

    def _is_loading(self) -> bool:
        return self._refreshing is not None and not self._refreshing.done()

    async def close(self) -> None:
        """Stop fetching."""
        await stop(self._refreshing)

    def _refresh(self) -> asyncio.Task[None] | None:
        """Return the current refresh, or start one; `None` within `PAUSE` after a failure."""
        if self._refreshing is None or self._refreshing.done():
            if self._failed_at is not None and clock.monotonic() - self._failed_at < PAUSE:
                return None
            self._refreshing = asyncio.create_task(self._load(), name=f"refresh {self._name}")
        return self._refreshing

    async def _load(self) -> None:
        began = clock.monotonic()
        try:
            body = await self._fetch()
            self.value = await asyncio.to_thread(self._read, body)
        except (CloudError, ValueError) as error:
            self._failed_at = clock.monotonic()
            self._failure = str(error)
            log.warning("catalog_refresh_failed", what=self._name, error=self._failure)
            await self._read_instead()
            return
        self._asked_at, self._fetched_at = began, clock.monotonic()
        self._failed_at = None
        try:
            await asyncio.to_thread(_write_file, self._path, body)
        except OSError as error:
            log.warning("catalog_save_failed", what=self._name, error=str(error))

    async def _read_instead(self) -> None:
        """Have what there is without a body, until one is fetched."""
        if self._instead is not None and self._fetched_at is None:
            with contextlib.suppress(ValueError):
                self.value = await asyncio.to_thread(self._read, self._instead)

    async def _look_on_disk(self) -> None:
        if self._looked_on_disk:
            return
        async with self._disk_lock:
            if self._looked_on_disk:
                return
            try:
                body, modified = await asyncio.to_thread(_read_file, self._path)
                self.value = await asyncio.to_thread(self._read, body)
                self._fetched_at = clock.monotonic() - max(0.0, clock.time() - modified)
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                log.warning("catalog_copy_rejected", what=self._name, error=str(error))
            self._looked_on_disk = True


def _read_file(path: Path) -> tuple[bytes, float]:
    return path.read_bytes(), path.stat().st_mtime


def _write_file(path: Path, body: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(body)
    draft.replace(path)


#: Maximum bytes of cached pictures.
MAX_BYTES = 32 * 1024 * 1024
#: The bytes that a model without a picture counts as.
_ENTRY_BYTES = 256

#: The parameters of the call for a picture.
Key: TypeAlias = tuple[str | int, ...]


class _CachedPicture(Struct, frozen=True):
    picture: Picture | None
    until: float

    @property
    def size(self) -> int:
        return _ENTRY_BYTES + (len(self.picture[0]) if self.picture else 0)


class PictureCache:
    """A cache of the pictures that `ask` returns; the least recently used are dropped first.

    Concurrent callers of the same picture cause one call. Pictures, and the fact that the cloud has
    none, are cached for `max_age` seconds.
    """

    def __init__(self, ask: Callable[..., Awaitable[Picture | None]], *, max_age: float) -> None:
        self._ask = ask
        self._max_age = max_age
        self._cached: TLRUCache[Key, _CachedPicture] = TLRUCache(
            MAX_BYTES, lambda _key, cached, _now: cached.until, getsizeof=lambda cached: cached.size
        )
        self._asking: SharedWork[Key, Picture | None] = SharedWork()

    async def close(self) -> None:
        """Stop asking."""
        await self._asking.close()

    async def get(self, *key: str | int) -> Picture | None:
        """Return a picture, `None` if the cloud has none or does not answer."""
        cached = self._cached.get(key)
        if cached is not None:
            return cached.picture
        return await self._asking.get(key, lambda: self._load(key))

    async def _load(self, key: Key) -> Picture | None:
        age = self._max_age
        try:
            picture = await self._ask(*key)
        except CloudError as error:
            log.info("picture_failed", picture=list(key), error=str(error))
            picture, age = None, PAUSE
        if picture is not None and not picture[1].startswith(("image/", "audio/")):
            picture = None
        cached = _CachedPicture(picture, clock.monotonic() + age)
        if cached.size <= self._cached.maxsize:
            self._cached[key] = cached
        return picture
