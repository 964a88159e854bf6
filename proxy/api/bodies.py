"""HTTP bodies of answers, as in ComfyUI.

Answers are JSON as of `json.dumps`, or empty bodies without a content type.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial, wraps
from typing import Any, Generic, TypeVar

from aiohttp import web
from msgspec import Struct

from proxy.api.holding import UNCOUNTED, LargeBody, in_turn
from proxy.translate import codec
from proxy.translate.errors import Kind, LocalError

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_TYPE = "application/json; charset=utf-8"

IDENTITY = "identity"

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
