"""Request bodies: JSON whatever its content type says, unpacked and bounded."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.translate import codec
from proxy.translate.errors import LocalError

#: How deep the JSON of a body may be nested; what walks through it takes a call for each level.
MOST_LEVELS = 300


class NotJsonError(LocalError):
    """The body is empty or is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            400,
            "invalid_json",
            "The request body must be valid JSON.",
            details=reason,
        )


def check_length(request: web.Request) -> None:
    """Refuse a body that says itself that it is too large, before it has been sent."""
    limit = request.client_max_size
    if limit and (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit)


async def read(request: web.Request) -> bytes:
    """The whole body, unpacked.

    Raises `HTTPRequestEntityTooLarge` over the limit and `LocalError` when it cannot be unpacked.
    """
    check_length(request)
    try:
        return await request.read()
    except (aiohttp.ClientPayloadError, web.RequestPayloadError, HttpProcessingError) as error:
        raise LocalError(
            400,
            "invalid_content_encoding",
            "The request body is not what its Content-Encoding and Transfer-Encoding say; send it "
            "whole and in the encoding that is named.",
        ) from error


def parse(body: bytes, charset: str | None = None) -> Any:
    """Decode JSON as ComfyUI does: by the charset (UTF-8 if none is named), NaN allowed.

    Raises `NotJsonError` for anything else and `LocalError` for bytes that are not of the charset.
    """
    try:
        text = body.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        raise LocalError(
            400,
            "invalid_charset",
            f"The request body is not {charset or 'utf-8'} text; send JSON in UTF-8.",
        ) from error
    if not text:
        raise NotJsonError("The body is empty.")
    try:
        value = codec.loads(text)
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    if text.count("[") + text.count("{") > MOST_LEVELS and _is_deep(value):
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
    """The body as JSON; raises as `read` and `parse` do."""
    return parse(await read(request), request.charset)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty list counts as one without keys, as in ComfyUI."""
    value = await read_json(request)
    if value == []:
        return {}
    if not isinstance(value, dict):
        raise LocalError(
            400,
            "invalid_body",
            f"The request body must be a JSON object, not {kind(value)}.",
        )
    return value


def kind(value: object) -> str:
    """What a JSON value is, for a sentence."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
