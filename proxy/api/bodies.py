"""HTTP bodies of requests and answers, as in ComfyUI.

The server does not decompress bodies (`auto_decompress=False`): that is done when a handler reads
one, after authentication. JSON is read whatever its content type, and everything is limited.
Answers are JSON as of `json.dumps`, or empty bodies without a content type. With the setting
`compress`, JSON and text are compressed for clients that accept it, as with ComfyUI's
`--enable-compress-response-body`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, Generic, TypeVar

from aiohttp import web
from msgspec import Struct

from proxy.api import unpacking
from proxy.api.holding import UNCOUNTED, LargeBody, hold, in_turn
from proxy.api.keys import OPTIONS
from proxy.api.unpacking import PackedWronglyError
from proxy.budget import Allocation
from proxy.translate import codec, media_types
from proxy.translate.errors import Kind, LocalError

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_TYPE = "application/json; charset=utf-8"

IDENTITY = "identity"
#: The codings of ComfyUI's answers, the preferred one first.
_CODINGS = ("deflate", "gzip")
_COMPRESSED_TYPES = frozenset({"application/json", "text/plain"})
#: Minimum bytes of a body that is worth compressing.
MIN_COMPRESSED = 256

_ITEM = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?")


class JsonAnswer(web.Response, Generic[T]):
    """An answer whose body is the JSON of a `T`. docs/openapi.json has the type of each handler
    below `/proxy/api` from its annotation."""


class Encoded(Struct, Generic[T], frozen=True):
    """The JSON of a `T`."""

    body: bytes


def encoded(value: T) -> Encoded[T]:
    """Return a value as JSON."""
    return Encoded(codec.dump_bytes(value))


def ready(body: bytes, status: int = 200) -> JsonAnswer[Any]:
    """Return an answer with JSON that is encoded already."""
    sent = body if len(body) <= UNCOUNTED else LargeBody(body)
    return JsonAnswer(body=sent, status=status, headers={"Content-Type": JSON_TYPE})


def json(value: T, status: int = 200) -> JsonAnswer[T]:
    """Return an answer with a value as ComfyUI's JSON."""
    return ready(codec.dump_bytes(value), status)


def json_of(encoded: Encoded[T]) -> JsonAnswer[T]:
    """Return an answer with a value that was encoded elsewhere, such as in a thread."""
    return ready(encoded.body)


def secret_json(value: T, status: int = 200) -> JsonAnswer[T]:
    """Return an answer with a value that has a secret, which nothing on its way may store."""
    answer = json(value, status)
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def large_json(request: web.Request, value: T) -> JsonAnswer[T]:
    """Return an answer with a value that may be large, encoded in a thread."""
    return ready(await in_turn(request, partial(codec.dump_bytes, value)))


def empty(status: int = 200) -> web.Response:
    """Return an answer without a body: `Content-Length: 0` and no content type."""
    return web.Response(status=status)


def text(body: str, status: int = 200) -> web.Response:
    """Return an answer with plain text."""
    return web.Response(text=body, status=status)


#: The HTTP status of each kind of error.
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


#: `Retry-After` in seconds if the database or the disk cannot be used.
STORE_WAIT = 2.0


def status_of(error: LocalError) -> int:
    """Return the HTTP status of an error."""
    return _STATUSES[error.kind]


def headers_of(error: LocalError) -> dict[str, str]:
    """Return `Retry-After` in whole seconds, at least 1; no header if that is unknown."""
    wait = error.retry_after
    return {} if wait is None else {"Retry-After": str(max(1, round(wait)))}


def refusal(error: LocalError) -> web.Response:
    """Return the answer of an error, in the form of ComfyUI's prompt errors."""
    answer = json(error.body(), status_of(error))
    answer.headers.update(headers_of(error))
    return answer


def in_form(form: Callable[[LocalError], LocalError]) -> Callable[[Handler], Handler]:
    """Return a decorator that gives all errors of a handler the same form."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except LocalError as error:
                # An error that is its own cause, or in a variable of its frames, keeps the body in
                # memory until a collection of cycles.
                if form(error) is error:
                    raise
                raise form(error) from error

        return answer

    return decorate


def pack(request: web.Request, answer: web.StreamResponse) -> None:
    """Compress an answer of JSON or text if the client accepts it.

    Files, pictures, websockets and compressed answers are unchanged. aiohttp compresses large
    bodies in a thread.
    """
    if not isinstance(answer, web.Response) or answer.content_type not in _COMPRESSED_TYPES:
        return
    if "Content-Encoding" in answer.headers:
        return
    body = answer.body
    if not isinstance(body, LargeBody | bytes | bytearray):
        return
    if not isinstance(body, LargeBody) and len(body) < MIN_COMPRESSED:
        return
    answer.headers.add("Vary", "Accept-Encoding")
    chosen = coding(request.headers.getall("Accept-Encoding", ()), _CODINGS)
    if chosen != IDENTITY:
        answer.enable_compression(web.ContentCoding(chosen))


def coding(accepted: Iterable[str], offered: Sequence[str]) -> str:
    """Return the content coding for a request (RFC 9110, 12.5.3): one of `offered`, or `identity`.

    `accepted` are the values of its `Accept-Encoding` headers, `offered` our codings, the preferred
    one first. The named coding with the highest weight is chosen, of equal ones the first offered;
    its weight must be above 0 and not below that of `identity`. `*` and invalid items are ignored.
    A client that refuses everything gets `identity`.
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

#: Maximum nesting of the JSON of a body; functions that walk through it are recursive.
MAX_LEVELS = 300
#: Maximum values of a body's JSON: 500,000 empty lists take 0.2 s; large workflows have 100,000.
MAX_VALUES = 500_000
#: Approximate bytes of a parsed value in addition to its text.
VALUE_BYTES = 120
#: Bytes of JSON from which it is parsed in a thread; fewer take a few ms.
LARGE = 32 * 1024

#: The charsets of clients of ComfyUI, none of which takes more than linear time.
_UTF8 = frozenset({"utf-8", "utf8", "ascii", "us-ascii"})
_CHARSETS = _UTF8 | {"iso-8859-1", "latin-1", "latin1"}


class CharsetError(LocalError):
    """Raised for text that is not in its charset, or for an unsupported charset."""

    def __init__(self, charset: str | None) -> None:
        super().__init__(
            "invalid_charset",
            f"The text is not {(charset or 'utf-8')[:40]}, or that is not supported; send UTF-8.",
        )


class NotJsonError(LocalError):
    """Raised for a body that is empty or not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__("invalid_json", "The request body must be valid JSON.", details=reason)


def type_of(request: web.Request) -> str:
    """Return the type of the body by its header, in small letters and without parameters."""
    return media_types.essence(request.headers.get("Content-Type", ""))


def check_length(request: web.Request, max_size: int | None = None) -> None:
    """Refuse a body by its `Content-Length`, before it is read. Raises
    `HTTPRequestEntityTooLarge`."""
    limit = request.client_max_size if max_size is None else max_size
    if limit and (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit)


async def read(request: web.Request, max_size: int | None = None) -> bytes:
    """Return the whole body, unpacked: at most `max_size` bytes, or what the server allows.

    Its memory is the member's until the request has its answer. Raises
    `HTTPRequestEntityTooLarge` over the limit, `MemoryLimitError`, and `LocalError` when it cannot
    be unpacked.
    """
    limit = request.client_max_size if max_size is None else max_size
    try:
        if request.content.is_eof() and unpacking.coding_of(request) is None:  # all of it has come
            body = request.content.read_nowait()
        else:
            body = await _collected(request, limit)
    except unpacking.BROKEN as error:
        raise PackedWronglyError from error
    if 0 < limit < len(body):
        raise web.HTTPRequestEntityTooLarge(limit)
    return body


async def _collected(request: web.Request, limit: int) -> bytes:
    """Return a body that is still to come, or that is packed."""
    check_length(request, limit)
    held: Allocation | None = None
    body = bytearray()
    async for piece in unpacking.pieces(request, limit):
        if 0 < limit < len(body) + len(piece):
            raise web.HTTPRequestEntityTooLarge(limit)
        if len(body) + len(piece) > UNCOUNTED:
            held = held or hold(request, "body")
            held.resize(len(body) + len(piece))
        body += piece
    return bytes(body)


def count_values(body: bytes) -> int:
    """Return about how many values the JSON of a body has. Raises `LocalError` for too many."""
    count = codec.breadth(body) - 1  # without the whole
    if count > MAX_VALUES:
        raise LocalError(
            "too_many_values",
            f"The JSON of the request body has more than {MAX_VALUES:,} values; send less at "
            "once, or upload the data as a file.",
            kind="too_large",
        )
    return count


def parse(body: bytes, charset: str | None = None) -> Any:
    """Decode JSON as ComfyUI does: by the charset (UTF-8 if none is named), NaN allowed.

    Raises `NotJsonError` for anything else and `LocalError` for bytes that are not of the charset,
    and for too many values.
    """
    if len(body) > MAX_VALUES:  # fewer bytes have fewer values
        count_values(body)
    known = "utf-8" if charset is None else checked_charset(charset)
    try:
        value = codec.loads(body if known in _UTF8 else body.decode(known))
    except UnicodeDecodeError as error:
        raise CharsetError(known) from error
    except ValueError as error:
        raise NotJsonError(str(error) if body else "The body is empty.") from None
    if body.count(b"[") + body.count(b"{") > MAX_LEVELS and _is_deep(value):
        raise NotJsonError(f"The JSON is nested more than {MAX_LEVELS} levels deep.")
    return value


def checked_charset(charset: str | None) -> str:
    """Return the charset of a body or a field, UTF-8 if none is named.

    Raises `LocalError` for one that no client of ComfyUI sends: some of Python's codecs take time
    that grows with the square of the length.
    """
    known = (charset or "utf-8").strip().lower()
    if known not in _CHARSETS:
        raise CharsetError(charset)
    return known


def _is_deep(value: Any) -> bool:
    """Return whether a value is nested beyond `MAX_LEVELS`; walks level by level, without
    recursion."""
    level = [value]
    for _ in range(MAX_LEVELS):
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
    """Return the body as JSON. Raises the errors of `read` and `parse`, and `LocalError` (413) for
    more bytes than the setting `max_json_mb` allows."""
    max_json, max_body = request.app[OPTIONS].max_json_bytes, request.client_max_size
    try:
        body = await read(request, min(max_json, max_body))
    except web.HTTPRequestEntityTooLarge:
        if max_json >= max_body:
            raise
        raise _too_large(max_json) from None
    charset = media_types.charset(request.headers.get("Content-Type", ""))
    if len(body) <= LARGE:
        return parse(body, charset)
    return await _parse_large(request, body, charset)


def _too_large(max_json: int) -> LocalError:
    return LocalError(
        "json_too_large",
        f"The JSON of the request body has more than {max_json:,} bytes; send less, or raise "
        "the setting `max_json_mb`.",
        kind="too_large",
    )


async def _parse_large(request: web.Request, body: bytes, charset: str | None) -> Any:
    """Parse a large body in threads, with its memory taken from the budget."""
    count = await in_turn(request, partial(count_values, body))
    hold(request, "body").grow(len(body) + VALUE_BYTES * count)
    return await in_turn(request, partial(parse, body, charset))


async def read_object(request: web.Request) -> dict[str, Any]:
    """Return the body as a JSON object; an empty list counts as an empty one, as in ComfyUI."""
    value = await read_json(request)
    return {} if value == [] else as_object(value)


def query_integer(
    query: Mapping[str, str], name: str, refuse: Callable[[str], LocalError]
) -> int | None:
    """Return the integer of a query, `None` if the name is absent.

    Raises what `refuse` makes of a text that is none.
    """
    text = query.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise refuse(text) from None


def query_number(
    query: Mapping[str, str], name: str, default: int, minimum: int, maximum: int
) -> int:
    """Return the whole number of a query of the proxy's own routes, in decimal digits alone.

    Raises `LocalError` (400) for anything else, and for one below `minimum` or above `maximum`.
    """

    def refuse(_: str) -> LocalError:
        return LocalError(
            f"invalid_{name}", f"{name} must be a whole number from {minimum} to {maximum:,}."
        )

    value = query_integer(query, name, refuse)
    if value is None:
        return default
    text = query[name]
    if not (text.isascii() and text.isdigit() and minimum <= value <= maximum):
        raise refuse(text)
    return value


def as_object(
    value: object, must: str = "The request body must be a JSON object"
) -> dict[str, Any]:
    """Return a value that must be a JSON object. Raises `LocalError` (400)."""
    if not isinstance(value, dict):
        raise LocalError("invalid_body", f"{must}, not {kind(value)}.")
    return value


_KINDS = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}
_KINDS |= {int: "a number", float: "a number"}


def kind(value: object) -> str:
    """Return the name of a JSON value's type, for a sentence."""
    return _KINDS.get(type(value), "an object")
