"""HTTP bodies: read from requests, and given as answers in ComfyUI's manner.

The server leaves a request's body packed (`auto_decompress=False`): it is unpacked only when a
handler reads it, behind authentication. JSON is read whatever its type, and all is bounded.
Answers are JSON by `json.dumps`, and empty bodies without a content type. JSON and text are packed
for clients that can unpack them, if the setting `compress` says so, as by ComfyUI's
`--enable-compress-response-body`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial, wraps
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.compression_utils import BrotliDecompressor, ZLibDecompressor, ZSTDDecompressor
from aiohttp.http_exceptions import HttpProcessingError

from proxy.api.connections import of
from proxy.translate import codec
from proxy.translate.errors import Kind, LocalError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_TYPE = "application/json; charset=utf-8"

IDENTITY = "identity"
#: The codings of ComfyUI's answers; of equal ones it takes the first.
_CODINGS = ("deflate", "gzip")
_PACKED = frozenset({"application/json", "text/plain"})
#: Bytes below which packing costs more than it saves.
LEAST = 256

_ITEM = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?")

#: Bytes written or unpacked at once; the event loop has a turn between two pieces.
PIECE = 256 * 1024


class _InPieces(web.Response):
    """An answer of which no more than a piece waits for a client that reads slowly or not at all.

    aiohttp gives a whole body to the transport, which keeps all of it that is not taken.
    """

    async def write_eof(self, data: bytes = b"") -> None:
        """Write what is left."""
        body = self._body if self._compressed_body is None else self._compressed_body
        if self._eof_sent or self._must_be_empty_body or not isinstance(body, bytes | bytearray):
            await super().write_eof(data)
            return
        whole = memoryview(body)
        last = max(0, len(whole) - 1) // PIECE * PIECE
        for start in range(0, last, PIECE):
            await self.write(whole[start : start + PIECE])
        await web.StreamResponse.write_eof(self, bytes(whole[last:]))


def ready(body: bytes, status: int = 200) -> web.Response:
    """JSON that has been encoded already."""
    kind = web.Response if len(body) <= PIECE else _InPieces
    return kind(body=body, status=status, headers={"Content-Type": JSON_TYPE})


async def stream(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """JSON in pieces, as fast as the client reads it."""
    answer = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
    await answer.prepare(request)
    if request.method != "HEAD":
        async for piece in pieces:
            await answer.write(piece)
    await answer.write_eof()
    return answer


def json(value: object, status: int = 200) -> web.Response:
    """A value as ComfyUI's JSON."""
    return ready(codec.dump_bytes(value), status)


def empty(status: int = 200) -> web.Response:
    """A bare status: `Content-Length: 0` and no content type."""
    return web.Response(status=status)


def text(body: str, status: int = 200) -> web.Response:
    """Plain text."""
    return web.Response(text=body, status=status)


#: The one place where an error of the rooms below becomes an HTTP status.
_STATUSES: dict[Kind, int] = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "timed_out": 408,
    "conflict": 409,
    "too_large": 413,
    "unsupported": 415,
    "dependency_failed": 424,
    "rate_limited": 429,
    "internal": 500,
    "not_implemented": 501,
    "bad_answer": 502,
    "unavailable": 503,  # not taken, and will never run
    "unconfirmed": 504,
}


#: Seconds after which it is worth asking a store again that could not be used.
STORE_WAIT = 2.0


def status_of(error: LocalError) -> int:
    """The HTTP status of an error."""
    return _STATUSES[error.kind]


def headers_of(error: LocalError) -> dict[str, str]:
    """`Retry-After` in whole seconds, at least 1; nothing where nobody knows."""
    wait = error.retry_after
    return {} if wait is None else {"Retry-After": str(max(1, round(wait)))}


def refusal(error: LocalError) -> web.Response:
    """An error in the form of ComfyUI's prompt errors."""
    answer = json(error.body(), status_of(error))
    answer.headers.update(headers_of(error))
    return answer


def in_form(form: Callable[[LocalError], LocalError]) -> Callable[[Handler], Handler]:
    """A handler whose refusals all have one form, whatever room they come from."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except LocalError as error:
                raise form(error) from error

        return answer

    return decorate


def pack(request: web.Request, answer: web.StreamResponse) -> None:
    """Have an answer packed as it is sent, if it is one to pack and the client asked for it.

    Files, pictures, websockets and what is packed already go as they are. Large bodies are packed
    in a thread (aiohttp does so).
    """
    if not isinstance(answer, web.Response) or answer.content_type not in _PACKED:
        return
    if "Content-Encoding" in answer.headers:
        return
    if not isinstance(answer.body, bytes | bytearray) or len(answer.body) < LEAST:
        return
    answer.headers.add("Vary", "Accept-Encoding")
    chosen = coding(request.headers.getall("Accept-Encoding", ()), _CODINGS)
    if chosen != IDENTITY:
        answer.enable_compression(web.ContentCoding(chosen))


def coding(accepted: Iterable[str], offered: Sequence[str]) -> str:
    """The content coding for a request (RFC 9110, 12.5.3): one of `offered`, or `identity`.

    `accepted` are the values of its `Accept-Encoding` headers, `offered` our codings, the best
    first. Only what a client names is chosen, with a weight above 0 and not below that of
    `identity`: the one of the highest weight, of equals the first offered. `*` names nothing, an
    item that cannot be read neither, and who refuses everything gets `identity`, as from a server
    that has no codings.
    """
    weights: dict[str, float] = {}
    for value in accepted:
        for item in value.split(","):
            read = _ITEM.fullmatch(item)
            if read:
                weights[read[1].lower().removeprefix("x-")] = float(read[2] or 1)
    named = [name for name in offered if weights.get(name, 0) > 0]
    best = max(named, key=weights.__getitem__, default=IDENTITY)
    return IDENTITY if weights.get(best, 0) < weights.get(IDENTITY, 0) else best


# --- requests -------------------------------------------------------------------------------------

#: How deep the JSON of a body may be nested; what walks through it takes a call for each level.
MOST_LEVELS = 300
#: Values of one body's JSON: 500,000 empty lists take 0.2 s; large workflows have 100,000.
MOST_VALUES = 500_000
#: Bytes of JSON beyond which it is parsed in a thread.
LARGE = 256 * 1024

#: What aiohttp raises of a body that breaks off.
BROKEN = (aiohttp.ClientPayloadError, web.RequestPayloadError, HttpProcessingError)

#: Those whose package is not installed raise `RuntimeError`.
_DECOMPRESSORS: dict[
    str, Callable[[], ZLibDecompressor | BrotliDecompressor | ZSTDDecompressor]
] = {
    "gzip": partial(ZLibDecompressor, encoding="gzip"),
    "deflate": partial(ZLibDecompressor, encoding="deflate"),
    "br": BrotliDecompressor,
    "zstd": ZSTDDecompressor,
}


class NotJsonError(LocalError):
    """The body is empty or is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__("invalid_json", "The request body must be valid JSON.", details=reason)


class _PackedWronglyError(LocalError):
    """The body is not in the encoding that its headers name."""

    def __init__(self) -> None:
        super().__init__(
            "invalid_content_encoding",
            "The request body does not match its Content-Encoding and Transfer-Encoding; send the "
            "complete body in that encoding.",
        )


def check_length(request: web.Request, most: int | None = None) -> None:
    """Refuse a body that says itself that it is too large, before it has been sent."""
    limit = request.client_max_size if most is None else most
    if limit and (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit)


async def read(request: web.Request, most: int | None = None) -> bytes:
    """The whole body, unpacked: at most `most` bytes, or what the server allows for all requests.

    Raises `HTTPRequestEntityTooLarge` over the limit and `LocalError` when it cannot be unpacked.
    """
    limit = request.client_max_size if most is None else most
    check_length(request, limit)
    body = bytearray()
    try:
        if request.content.is_eof() and _coding(request) is None:  # all of it has come
            body += request.content.read_nowait()
            if 0 < limit < len(body):
                raise web.HTTPRequestEntityTooLarge(limit)
            return bytes(body)
        async for piece in _pieces(request, limit):
            body += piece
            if 0 < limit < len(body):
                raise web.HTTPRequestEntityTooLarge(limit)
    except BROKEN as error:
        raise _PackedWronglyError from error
    return bytes(body)


@asynccontextmanager
async def unpacked(request: web.Request) -> AsyncIterator[aiohttp.StreamReader]:
    """The body as a stream, unpacked as fast as it is read, for what reads in small steps.

    What is wrong with the packing is raised by the stream, as `LocalError`.
    """
    if _coding(request) is None:
        yield request.content
        return
    async with aclosing(_pieces(request, request.client_max_size)) as pieces:
        yield _Unpacked(pieces)


class _Unpacked(aiohttp.StreamReader):
    """A stream that takes the next piece when its reader has nothing left.

    It never holds more than one piece, so it never pauses. One of brotli can have nearly
    `2 * PIECE` bytes.
    """

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(BaseProtocol(loop), 2 * PIECE, loop=loop)
        self._pieces = pieces

    async def _wait(self, _: str) -> None:
        try:
            self.feed_data(await anext(self._pieces))
        except StopAsyncIteration:
            self.feed_eof()
        except BROKEN as error:
            raise _PackedWronglyError from error


async def _pieces(request: web.Request, most: int) -> AsyncGenerator[bytes]:
    """The body, unpacked, in pieces of about `PIECE` bytes at most.

    Raises what aiohttp raises of a body that breaks off, `_PackedWronglyError`, and
    `HTTPRequestEntityTooLarge` for what is too large before it is unpacked.
    """
    coding, received = _coding(request), 0
    try:
        decompressor = None if coding is None else _DECOMPRESSORS[coding]()
    except RuntimeError:
        raise _PackedWronglyError from None
    async for packed in request.content.iter_any():
        received += len(packed)
        if 0 < most < received:
            raise web.HTTPRequestEntityTooLarge(most)
        if decompressor is None:
            yield packed
            continue
        if received == len(packed) and coding == "deflate" and packed[:1] and packed[0] & 0xF != 8:
            # Not RFC 1950 but bare RFC 1951, as some clients send it.
            decompressor = ZLibDecompressor(encoding=coding, suppress_deflate_header=True)
        while True:
            try:
                piece = decompressor.decompress_sync(packed, max_length=PIECE)
            except Exception as error:  # each codec has its own
                raise _PackedWronglyError from error
            packed = b""
            if piece:
                yield piece
                await asyncio.sleep(0)
            if not decompressor.data_available:
                break
    if received and coding == "deflate" and not getattr(decompressor, "eof", True):
        raise _PackedWronglyError


def _coding(request: web.Request) -> str | None:
    """The coding of the body; one that nobody here knows counts as none, as in aiohttp."""
    coding = request.headers.get("Content-Encoding", "").lower()
    return coding if coding in _DECOMPRESSORS else None


def parse(body: bytes, charset: str | None = None) -> Any:
    """Decode JSON as ComfyUI does: by the charset (UTF-8 if none is named), NaN allowed.

    Raises `NotJsonError` for anything else and `LocalError` for bytes that are not of the charset.
    """
    try:
        text = body.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        raise LocalError(
            "invalid_charset",
            f"The request body is not {charset or 'utf-8'} text; send JSON in UTF-8.",
        ) from error
    if not text:
        raise NotJsonError("The body is empty.")
    openings = text.count("[") + text.count("{")
    if openings + text.count(",") > MOST_VALUES:
        raise LocalError(
            "too_many_values",
            f"The JSON of the request body has more than {MOST_VALUES:,} values; send less at "
            "once, or upload the data as a file.",
            kind="too_large",
        )
    try:
        value = codec.loads(text)
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    if openings > MOST_LEVELS and _is_deep(value):
        raise NotJsonError(f"The JSON is nested more than {MOST_LEVELS} levels deep.")
    return value


def _is_deep(value: Any) -> bool:
    """Whether a value is nested beyond `MOST_LEVELS`; walks level by level, without recursion."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


async def read_json(request: web.Request) -> Any:
    """The body as JSON; raises as `read` and `parse` do.

    Raises `LocalError` (413) for more bytes than the setting `max_json_mb` allows.
    """
    most, largest = of(request).max_json_bytes, request.client_max_size
    try:
        body = await read(request, min(most, largest))
    except web.HTTPRequestEntityTooLarge:
        if most >= largest:
            raise
        raise LocalError(
            "json_too_large",
            f"The JSON of the request body has more than {most:,} bytes; send less, or raise the "
            "setting `max_json_mb`.",
            kind="too_large",
        ) from None
    if len(body) <= LARGE:
        return parse(body, request.charset)
    return await asyncio.to_thread(parse, body, request.charset)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty list counts as one without keys, as in ComfyUI."""
    value = await read_json(request)
    return {} if value == [] else as_object(value)


def as_object(
    value: object, must: str = "The request body must be a JSON object"
) -> dict[str, Any]:
    """A value that must be a JSON object. Raises `LocalError` (400)."""
    if not isinstance(value, dict):
        raise LocalError("invalid_body", f"{must}, not {kind(value)}.")
    return value


_KINDS = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}
_KINDS |= {int: "a number", float: "a number"}


def kind(value: object) -> str:
    """What a JSON value is, for a sentence."""
    return _KINDS.get(type(value), "an object")
