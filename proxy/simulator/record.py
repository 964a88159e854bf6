"""What came in: each request, how often each route was called, and waking those who wait for it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

KEPT = 20_000

#: Headers that carry a credential.
CREDENTIAL_HEADERS = ("X-API-Key", "Authorization", "Cookie")


@dataclass(slots=True)
class RequestRecord:
    """A request as it came in, without the values of its credentials.

    `route` is the method and the pattern of the path (`GET /api/jobs/{id}`), or the path itself
    where no route fits; on the storage origin it is `GET storage`. `credentials` names what it
    carried: `X-API-Key`, `Authorization`, `Cookie`, `token` (in the query), or `key` where the
    key of an account stood anywhere else. `status` is 0 while no answer has begun.
    """

    method: str
    path: str
    route: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    credentials: tuple[str, ...]
    status: int = 0


def credentials_of(
    headers: Mapping[str, str], query: Mapping[str, str], raw_path: str, keys: Iterable[str]
) -> tuple[str, ...]:
    """Return the kinds of credentials in a request."""
    found = [name for name in CREDENTIAL_HEADERS if name in headers]
    if "token" in query:
        found.append("token")
    if not found:
        everything = "\n".join([raw_path, *headers.values()])
        if any(key and key in everything for key in keys):
            found.append("key")
    return tuple(found)


def without_credentials(values: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of headers or of a query without the credentials."""
    secret = {name.lower() for name in CREDENTIAL_HEADERS} | {"token"}
    return {name: value for name, value in values.items() if name.lower() not in secret}


class Signal:
    """Wakes everybody who waits whenever something changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake those who wait for a change."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def until(self, condition: Callable[[], bool], within: float = 10.0) -> None:
        """Wait until the condition holds. Raises `TimeoutError` after `within` seconds."""
        async with asyncio.timeout(within):
            while not condition():
                future = asyncio.get_running_loop().create_future()
                self._waiting.add(future)
                try:
                    await future
                finally:
                    self._waiting.discard(future)


@dataclass(slots=True)
class Record:
    """The requests to one origin, the newest `KEPT` of them, and the count of all by route."""

    requests: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=KEPT))
    calls: Counter[str] = field(default_factory=Counter)

    def note(self, request: web.Request, route: str, keys: Iterable[str]) -> RequestRecord:
        """Note a request; `keys` are those of the accounts."""
        noted = RequestRecord(
            method=request.method,
            path=request.path,
            route=route,
            query=without_credentials(request.query),
            headers=without_credentials(request.headers),
            credentials=credentials_of(request.headers, request.query, request.raw_path, keys),
        )
        self.requests.append(noted)
        self.calls[route] += 1
        return noted
