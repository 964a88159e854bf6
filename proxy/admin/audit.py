"""`/proxy/api/audit`: the audit record."""

from __future__ import annotations

from aiohttp import web

from proxy.admin.members import require_admin
from proxy.admin.schema.administration import AuditPage
from proxy.api import bodies, request_bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import ACCOUNTING
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError

#: Maximum entries of a page, and the maximum offset.
MAX_ENTRIES, MAX_OFFSET = 1000, 1_000_000


async def get_audit(request: web.Request) -> JsonAnswer[AuditPage]:
    """Return `limit` entries after the first `offset`, newest first, to admins.

    The query may name a `member` and an `action`.
    """
    require_admin(request)
    limit = request_bodies.query_number(request.query, "limit", 100, 0, MAX_ENTRIES)
    offset = request_bodies.query_number(request.query, "offset", 0, 0, MAX_OFFSET)
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
