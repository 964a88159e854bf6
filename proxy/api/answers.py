"""Answers in ComfyUI's manner: JSON by `json.dumps`, and empty bodies without a content type.

JSON and text are packed for clients that can unpack them, if the setting `compress` says so, as by
ComfyUI's `--enable-compress-response-body`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import wraps

from aiohttp import web

from proxy.translate import codec
from proxy.translate.errors import Kind, LocalError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_TYPE = "application/json; charset=utf-8"

IDENTITY = "identity"
#: The codings of ComfyUI; of equal ones it takes the first.
_CODINGS = ("deflate", "gzip")
_PACKED = frozenset({"application/json", "text/plain"})
#: Bytes below which packing costs more than it saves.
LEAST = 256

_ITEM = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?")


#: Bytes of an answer that are written at once.
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
    if not isinstance(answer, web.Response) or answer.prepared:
        return
    if answer.content_type not in _PACKED or "Content-Encoding" in answer.headers:
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
