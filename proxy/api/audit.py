"""`/proxy/api/audit`: who did what."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.api import bodies
from proxy.api.keys import ACCOUNTING
from proxy.api.members import require_admin
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    pass


#: Entries of a page of the audit record, and the furthest that pages go back.
MOST, FURTHEST = 1000, 1_000_000


async def get_audit(request: web.Request) -> web.Response:
    """The audit record, newest first, in pages of `limit` behind the first `offset`; for admins.

    The query may name a `member` and an `action`.
    """
    require_admin(request)
    limit = whole_number(request, "limit", 100, MOST)
    offset = whole_number(request, "offset", 0, FURTHEST)
    audit, query = request.app[ACCOUNTING].audit, request.query
    try:
        entries = await audit.page(
            limit=limit + 1,
            offset=offset,
            member=query.get("member") or None,
            action=query.get("action") or None,
        )
    except StorageError as error:
        raise LocalError(
            "audit_unavailable",
            "The audit log cannot be read or written; free disk space or repair the disk, then try "
            "again.",
            kind="unavailable",
            details=str(error),
            retry_after=bodies.STORE_WAIT,
        ) from error
    return bodies.json(
        {"entries": entries[:limit], "offset": offset, "has_more": len(entries) > limit}
    )


def whole_number(request: web.Request, name: str, default: int, most: int) -> int:
    """A number of the query, from 0 to `most`. Raises `LocalError` (400)."""
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise LocalError(f"invalid_{name}", f"{name} must be a whole number from 0 to {most:,}.")
    return int(text)
