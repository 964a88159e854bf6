"""The tokens and the session that a request carries."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from aiohttp import web

from proxy.api.requests import prefix_of
from proxy.edge.addressing import RequestPrefix
from proxy.translate.errors import LocalError

COOKIE = "comfy_proxy_session"
#: The header that programs for Comfy Cloud send.
KEY_HEADER = "X-API-Key"


class Credential(NamedTuple):
    """A token that a request carries. Browsers send `ambient` ones without a request, to any page's
    order."""

    token: str
    ambient: bool = False


def is_anonymous(request: web.Request, prefix: RequestPrefix) -> bool:
    """Return whether a request has no token and no session."""
    headers = request.headers
    return (
        prefix.path_token is None
        and not prefix.query_tokens
        and "Authorization" not in headers
        and KEY_HEADER not in headers
        and cookie(request, COOKIE) is None
    )


def cookie_of(request: web.Request) -> str | None:
    """Return the cookie of a browser's session, of a request without a token of its own."""
    return None if has_token(request) else cookie(request, COOKIE)


def cookie(request: web.Request, name: str) -> str | None:
    """Return the value of a cookie, the last one of its name.

    aiohttp parses all cookies of a request for that, which takes many ms if a stranger sends 4,000.
    """
    for part in reversed(request.headers.get("Cookie", "").split(";")):
        found, equals, value = part.partition("=")
        if equals and found.strip() == name:
            return value.strip().strip('"')
    return None


def has_token(request: web.Request) -> bool:
    """Return whether a request carries a token of its own, valid or not."""
    prefix, headers = prefix_of(request), request.headers
    given = prefix.query_tokens or headers.get("Authorization") or headers.get(KEY_HEADER)
    return bool(given) or prefix.path_token is not None


def credentials_of(request: web.Request) -> list[Credential]:
    """Return the tokens in the order of precedence: path, `Authorization`, `X-API-Key`, query.

    Raises `LocalError` (400) for two in one place: what stands between client and server may have
    looked at the other.
    """
    prefix = prefix_of(request)
    found = [] if prefix.path_token is None else [Credential(prefix.path_token)]
    found += map(_of_authorization, _single(request, "Authorization"))
    found += [Credential(value.strip()) for value in _single(request, KEY_HEADER)]
    if len(prefix.query_tokens) > 1:
        raise _ambiguous("the query")
    return found + [Credential(value.strip()) for value in prefix.query_tokens]


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
    """Return the password, or the user name if there is no password."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    user, _, password = text.partition(":")
    return password or user


def _ambiguous(where: str) -> LocalError:
    return LocalError("several_tokens", f"There is more than one token in {where}; send one.")
