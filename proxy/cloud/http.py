"""HTTP requests to Comfy Cloud: key, errors, retries of reads, and limits of answers."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from functools import partial
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import MultipartWriter

from proxy.cloud.answers import MAX_PARSED_INLINE, USUAL, Answer, AnswerLimits
from proxy.cloud.calls import OTHER, CloudApi, CloudCall, Query, SentFile
from proxy.cloud.connections import (
    CONNECT_TIMEOUT,
    CONNECTION_ERRORS,
    USER_AGENT,
    CloudAddresses,
    Connections,
    TrackedRequest,
    read_body,
    refused_address,
    request_sent,
)
from proxy.cloud.contact import CallMonitor
from proxy.cloud.errors import (
    CloudError,
    CloudGarbage,
    CloudOversized,
    CloudRefused,
    CloudUnreachable,
    refusal,
)
from proxy.cloud.observations import AccountObservations
from proxy.cloud.resilience import TRIAL, ApiKey, Attempts, CallGate, RetryPolicy, retry_after
from proxy.logging import public_word
from proxy.runtime import clock
from proxy.translate import codec
from proxy.translate.codec import redact
from proxy.translate.errors import type_of, unlisted

#: Bytes from which an answer counts as large, and the maximum number of concurrent large answers.
_LARGE, _MAX_CONCURRENT_LARGE = 1024 * 1024, 2

#: Minimum bytes a second of an upload; slower ones time out.
_MIN_UPLOAD_RATE = 100_000

#: Maximum bytes of a body that is sent in one piece with the request's headers; of a larger one no
#: more than one piece is buffered.
_MAX_SENT_WHOLE = 64 * 1024

REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Maximum bytes of an error body that are read.
MAX_REFUSAL = 1024 * 1024

Body = Callable[[], AbstractAsyncContextManager[Any]]

T = TypeVar("T")

#: What no segment of a path can be.
_NO_NAMES = frozenset({"", ".", ".."})


@dataclass(eq=False, repr=False)
class Http:
    """Requests to the cloud's host.

    `addresses` checks where they go, `monitor` notes them, and `observations` gets the answers that
    no document lists. Errors have the `title` of the server.
    """

    addresses: CloudAddresses
    key: ApiKey
    _: KW_ONLY
    api: CloudApi
    retries: RetryPolicy
    gate: CallGate
    monitor: CallMonitor
    observations: AccountObservations
    title: str = CloudError.title

    def __post_init__(self) -> None:
        self.connections = Connections(
            self.addresses.check_cloud,
            headers={"User-Agent": USER_AGENT},
            request_class=TrackedRequest,
        )
        self._large = asyncio.Semaphore(_MAX_CONCURRENT_LARGE)
        self.monitor.calls.expect(
            (method, f"/api/{route}") for route, method in self.api.routes.items()
        )

    def call(
        self, method: str, route: str, query: Query | None = None, **names: str | Sequence[str]
    ) -> CloudCall:
        """Return the call of a route below `/api`; `names` stand for its parts in braces, each one
        segment or several.

        Raises `CloudRefused` (404) for a name that a path cannot contain.
        """
        parts = {}
        for part, name in names.items():
            segments = [name] if isinstance(name, str) else name
            if not _NO_NAMES.isdisjoint(segments):
                raise refusal("a name in the path", 404, {"code": "NOT_FOUND"}, None)
            parts[part] = "/".join(quote(segment, safe="") for segment in segments)
        path = route.format(**parts)
        url = self.addresses.base_url.joinpath("api", path, encoded=True).with_query(query)
        return CloudCall(method, url, f"/api/{route}" if route in self.api.routes else OTHER)

    async def read(
        self,
        call: CloudCall,
        parse: Callable[[Answer], T],
        *,
        data: bytes | Body | None = None,
        headers: Mapping[str, str] | None = None,
        total: float | None = None,
        limits: AnswerLimits = USUAL,
        max_attempts: int | None = None,
        trial: bool = False,
    ) -> T:
        """Send a call, and return what `parse` makes of its complete answer.

        `data` that is not bytes is opened for each attempt; `total` replaces the timeout of an
        attempt. The request is repeated, up to `max_attempts`, also if `parse` raises
        `CloudGarbage`. A `trial` shows whether a cloud that did not answer does again. `parse` must
        be pure: large answers are parsed in a thread. Raises `CloudUnreachable`, `CloudRefused` or
        `CloudGarbage`.
        """
        retries = self.retries
        if trial and self.gate.failing and retries.budget > TRIAL.budget:
            retries = TRIAL
        timeout = aiohttp.ClientTimeout(
            total=total or self.retries.attempt_timeout, sock_connect=CONNECT_TIMEOUT
        )
        attempts, answer = Attempts(retries, max_attempts), None
        while True:
            try:
                async with data() if callable(data) else nullcontext(data) as body:
                    response = await self.open(
                        call, data=body, headers=headers, timeout=timeout, trial=trial
                    )
                    answer = await self._answer(call, response, attempts.number, limits)
                if len(answer.body) > MAX_PARSED_INLINE:
                    return await asyncio.to_thread(parse, answer)
                return parse(answer)
            except CloudError as error:
                error.title = self.title
                if isinstance(error, CloudGarbage):
                    self.unlisted(call, error.problem, answer and answer.example())
                wait = attempts.failed(error)
                self.gate.repeats(call.route, error, attempts, wait)
            answer = None  # it may be large
            await asyncio.sleep(wait)

    async def lookup(
        self,
        route: str,
        parse: Callable[[Answer], T],
        limits: AnswerLimits = USUAL,
        *,
        max_attempts: int | None = None,
        **parts: Any,
    ) -> T | None:
        """Read a `call` with GET; return `None` on 404 and for a name that a path cannot have."""
        try:
            call = self.call("GET", route, **parts)
        except CloudRefused:
            return None
        return await self.found(call, parse, limits, max_attempts)

    async def found(
        self,
        call: CloudCall,
        parse: Callable[[Answer], T],
        limits: AnswerLimits = USUAL,
        max_attempts: int | None = None,
    ) -> T | None:
        """Read a call; return `None` on 404."""
        try:
            return await self.read(call, parse, limits=limits, max_attempts=max_attempts)
        except CloudRefused as error:
            if error.status == 404:
                return None
            raise

    async def send_file(
        self,
        call: CloudCall,
        parse: Callable[[Answer], T],
        fields: Mapping[str, str],
        file: SentFile,
    ) -> T:
        """Send a form of `fields` and then a file, which is streamed from disk."""
        size = (await asyncio.to_thread(file.path.stat)).st_size
        total = self.retries.attempt_timeout + size / _MIN_UPLOAD_RATE
        read = await self.read(call, parse, data=partial(_form, fields, file), total=total)
        self.monitor.calls.uploaded(size)
        return read

    async def _answer(
        self, call: CloudCall, response: aiohttp.ClientResponse, attempts: int, limits: AnswerLimits
    ) -> Answer:
        """Receive an answer completely. Raises `CloudUnreachable`, `CloudGarbage`."""
        try:
            if response.status >= 300:
                raise CloudGarbage(
                    f"{call}: answered with a redirect; check that the base URL begins with https",
                    problem=f"{response.status}",
                )
            body = await read_body(response, min(limits.size, _LARGE))
            if _LARGE < len(body) <= limits.size:  # the rest waits for its turn
                async with self._large:
                    body += await read_body(response, limits.size - len(body))
            if len(body) > limits.size:
                response.close()
                raise CloudOversized(f"{call}: the answer is larger than {limits.size:,} bytes")
        except CONNECTION_ERRORS as error:
            raise unreachable(call, error, sent=True) from None
        finally:
            response.release()
        content_type = response.headers.get("Content-Type", "")
        return Answer(call, body, content_type, attempts, self.key.text, limits)

    async def open(
        self,
        call: CloudCall,
        *,
        timeout: aiohttp.ClientTimeout,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        trial: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send one request, and return its response with a status below 400, before its body.

        The caller releases or closes the response. Raises `CloudUnreachable` (its `sent` says
        whether the cloud may have received the request) or `CloudRefused`; `CallGate` may raise
        them without a request.
        """
        key = self.key
        if isinstance(data, bytes) and len(data) > _MAX_SENT_WHOLE:
            data = BytesIO(data)
        await self.gate.enter(call, key, trial=trial)
        request_sent.set(False)
        began, status = clock.monotonic(), None
        self.monitor.began(began)
        try:
            response = await self.connections.request(
                call.method,
                call.url,
                data=data,
                headers={**(headers or {}), **self.api.credential(key.text)},
                timeout=timeout,
            )
            status = response.status
            if status >= 400:
                raise await self._refusal(call, response)
        except (*CONNECTION_ERRORS, CloudRefused) as error:
            raise self._failed(call, error, key) from None
        finally:
            self.monitor.ended(call.method, call.route, status, began, clock.monotonic())
        self.gate.answered(call.route, key)
        return response

    def unlisted(self, call: CloudCall, what: str, example: object = None) -> None:
        """Note an answer that no document lists; `what` says which in a few words."""
        self.observations.add_anomaly("answer", f"{call.method} {call.route}: {what}", example)

    def _failed(
        self, call: CloudCall, error: Exception, key: ApiKey
    ) -> CloudRefused | CloudUnreachable:
        """Return the error of a call that was refused or not answered, which the gate notes."""
        if not isinstance(error, CloudRefused):
            error = unreachable(call, error, sent=request_sent.get())
        self.gate.failed(error, key)
        return error

    async def _refusal(self, call: CloudCall, response: aiohttp.ClientResponse) -> CloudRefused:
        try:
            raw = (await read_body(response, MAX_REFUSAL))[:MAX_REFUSAL]
        finally:
            response.close()
        wait = retry_after(response.headers.get("Retry-After"), clock.time())
        try:
            body = codec.loads_text(raw)
        except ValueError:
            body = raw.decode(errors="replace")
        body = redact(body, self.key.text)
        if (odd := unlisted(response.status, body)) is not None:
            code = public_word(type_of(body) or "")
            what = f"{response.status} {code if odd == 'code' else f'with an unlisted {odd}'}"
            self.unlisted(call, what, body)
        return refusal(call, response.status, body, wait)


@asynccontextmanager
async def _form(fields: Mapping[str, str], file: SentFile) -> AsyncIterator[MultipartWriter]:
    form = MultipartWriter("form-data")
    for key, value in fields.items():
        form.append(value).set_content_disposition("form-data", name=key)
    with await asyncio.to_thread(file.path.open, "rb") as opened:
        part = form.append(opened, {"Content-Type": file.content_type})
        # Escaped as by browsers (HTML, "multipart form data"), like the cloud's own web app.
        name = file.name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        part.headers["Content-Disposition"] = f'form-data; name="{file.field}"; filename="{name}"'
        yield form


def unreachable(call: CloudCall | str, error: Exception, *, sent: bool) -> CloudUnreachable:
    """Return the error of a failed connection; raise it without a cause, because aiohttp's errors
    contain the URL, which may be a signed one."""
    return CloudUnreachable(f"{call}: {_reason(error)}", sent=sent)


def connection_error(error: OSError) -> str:
    """Return why there is no connection, without the numbers of the system."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason.replace("_", " ").lower() if error.reason else str(error)
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text repeats the address
    return error.strerror or str(error)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if refused := refused_address(error):
        return str(refused)
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({connection_error(error.os_error)})"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    return f"the connection was lost ({type(error).__name__})"
