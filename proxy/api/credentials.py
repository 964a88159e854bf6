"""The tokens that a request carries, wherever clients can put one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from proxy.api.prefix import way_of
from proxy.translate.errors import LocalError

#: The header that programs for Comfy Cloud send.
KEY_HEADER = "X-API-Key"


@dataclass(frozen=True, slots=True)
class Credential:
    """A token that a request carries. Browsers send `ambient` ones unasked, to any page's order."""

    token: str
    ambient: bool = False


def credentials(request: web.Request) -> list[Credential]:
    """The tokens, in the order in which they count: path, `Authorization`, `X-API-Key`, query.

    Raises `LocalError` (400) for two in one place: what stands between client and server may have
    looked at the other.
    """
    return list(_credentials(request))


def _credentials(request: web.Request) -> Iterator[Credential]:
    way = way_of(request)
    if way.path_token is not None:
        yield Credential(way.path_token)
    for value in _single(request, "Authorization"):
        yield _of_authorization(value)
    for value in _single(request, KEY_HEADER):
        yield Credential(value.strip())
    if len(way.query_tokens) > 1:
        raise _ambiguous("the query")
    for value in way.query_tokens:
        yield Credential(value.strip())


def _single(request: web.Request, header: str) -> list[str]:
    values = request.headers.getall(header, [])
    if len(values) > 1:
        raise _ambiguous(f"the header {header}")
    return [value for value in values if value.strip()]


def _of_authorization(value: str) -> Credential:
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "bearer":
        return Credential(rest.strip())
    if scheme.lower() == "basic":
        return Credential(_of_basic(rest.strip()), ambient=True)
    return Credential("")


def _of_basic(encoded: str) -> str:
    """The password, or the user name where there is no password."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    user, _, password = text.partition(":")
    return password or user


def _ambiguous(where: str) -> LocalError:
    return LocalError(
        400,
        "several_tokens",
        f"There is more than one token in {where}; send one.",
    )
