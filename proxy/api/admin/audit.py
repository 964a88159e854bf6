"""`/proxy/api/audit`: who did what, when and from where."""

from __future__ import annotations

from aiohttp import web

from proxy.api import answers
from proxy.api.admin import asking
from proxy.api.services import of
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError

#: Entries of a page, and the furthest that pages go back.
MOST, FURTHEST = 1000, 1_000_000


async def get_audit(request: web.Request) -> web.Response:
    """The audit record, newest first, in pages of `limit` behind the first `offset`; for admins.

    The query may name a `member` and an `action`.
    """
    asking.require_admin(request)
    limit = asking.whole_number(request, "limit", 100, MOST)
    offset = asking.whole_number(request, "offset", 0, FURTHEST)
    audit, query = of(request).books.audit, request.query
    try:
        entries = (
            []
            if audit is None
            else await audit.page(
                limit=limit + 1,
                offset=offset,
                member=query.get("member") or None,
                action=query.get("action") or None,
            )
        )
    except StorageError as error:
        raise LocalError(
            503,
            "audit_unavailable",
            "The audit record cannot be read or written; free or repair the disk, then ask again.",
            details=str(error),
        ) from error
    return answers.json(
        {"entries": entries[:limit], "offset": offset, "has_more": len(entries) > limit}
    )
