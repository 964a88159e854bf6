"""Jobs that an admin must release before they are sent: they waited in a backup that was restored,
and may have run since.

They are those up to an `order`, so that new jobs are never among them. One that was on its way to
the cloud is looked for there first, and is held if it is not found.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from proxy.storage.job_tables import jobs
from proxy.storage.spending import WAITING
from proxy.storage.statements import get_meta, put_meta

#: The highest `order` of jobs that are held.
_NAME = "held_jobs"

_HIGHEST = select(func.max(jobs.c.order))
_COUNT = select(func.count()).where(jobs.c.state.in_(WAITING))


def hold_waiting(connection: Connection) -> int:
    """Hold the jobs that are there, unless the cloud has them; return how many wait."""
    put_meta(connection, _NAME, connection.execute(_HIGHEST).scalar_one() or 0)
    return int(connection.execute(_COUNT).scalar_one())


def held_order(connection: Connection) -> int:
    """Return the `order` up to which jobs are held, 0 if none are."""
    return int(get_meta(connection, _NAME) or 0)


def release_held(connection: Connection) -> int:
    """Let the held jobs be sent; return how many wait."""
    held = _COUNT.where(jobs.c.order <= held_order(connection))
    put_meta(connection, _NAME, 0)
    return int(connection.execute(held).scalar_one())
