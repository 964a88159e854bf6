"""Who asks, and what of."""

from __future__ import annotations

import re
from datetime import date

from aiohttp import web

from proxy.api.services import member_of, of
from proxy.translate.errors import LocalError


def is_admin(request: web.Request) -> bool:
    """Whether the client's member is an admin; without members everybody is."""
    return of(request).members.get(member_of(request)).role == "admin"


def require_admin(request: web.Request) -> None:
    """Raise `LocalError` (403) for a member who is no admin."""
    if not is_admin(request):
        raise LocalError(
            403,
            "admins_only",
            "Only admins of this proxy may ask for this; ask one of them, or to become one.",
        )


def whole_number(request: web.Request, name: str, default: int, most: int) -> int:
    """A number of the query, from 0 to `most`. Raises `LocalError` (400)."""
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise LocalError(
            400, f"invalid_{name}", f"{name} must be a whole number from 0 to {most:,}."
        )
    return int(text)


def day(request: web.Request, name: str, default: str) -> str:
    """A day of the query as `YYYY-MM-DD`. Raises `LocalError` (400)."""
    text = request.query.get(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise LocalError(
            400, f"invalid_{name}", f"{name} must be a day such as 2026-01-31."
        ) from None
