"""HTTP bodies and queries of requests, as in ComfyUI.

The server does not decompress bodies (`auto_decompress=False`): that is done when a handler reads
one, after authentication. JSON is read whatever its content type, and everything is limited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from proxy.api import unpacking
from proxy.api.holding import UNCOUNTED, hold, in_turn
from proxy.api.unpacking import PackedWronglyError
from proxy.sharing.budget import Allocation
from proxy.translate import codec, media_types
from proxy.translate.errors import LocalError

#: Maximum bytes of JSON, after decompression: the largest workflows have a few MB, and what more
#: memory their values take comes from the budget.
MAX_JSON_BYTES = 32 * 1024 * 1024
#: Maximum nesting of the JSON of a body; functions that walk through it are recursive.
MAX_LEVELS = 300
#: Maximum values of a body's JSON: 500,000 empty lists take 0.2 s; large workflows have 100,000.
MAX_VALUES = 500_000
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
    more than `MAX_JSON_BYTES`."""
    max_body = request.client_max_size
    try:
        body = await read(request, min(MAX_JSON_BYTES, max_body))
    except web.HTTPRequestEntityTooLarge:
        if max_body <= MAX_JSON_BYTES:
            raise
        raise _too_large() from None
    charset = media_types.charset(request.headers.get("Content-Type", ""))
    if len(body) <= LARGE:
        return parse(body, charset)
    return await _parse_large(request, body, charset)


def _too_large() -> LocalError:
    return LocalError(
        "json_too_large",
        f"The JSON of the request body has more than {MAX_JSON_BYTES:,} bytes; upload pictures as "
        "files instead of sending them in the workflow.",
        kind="too_large",
    )


async def _parse_large(request: web.Request, body: bytes, charset: str | None) -> Any:
    """Parse a large body in threads, with its memory taken from the budget."""
    count = await in_turn(request, partial(count_values, body))
    hold(request, "body").grow(len(body) + codec.VALUE_BYTES * count)
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
