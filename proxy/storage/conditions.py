"""Under which conditions the storage takes a new job of a member, and what the job counts as.

They are decided in the transaction that inserts the job, so that jobs which arrive at once do not
exceed together what one of them may use.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select

from proxy.sharing.pool import Pool
from proxy.storage.database import UnitRefusedError
from proxy.storage.job_tables import Number, job_numbers, jobs
from proxy.storage.payloads import payload_bytes
from proxy.storage.spending import Decision, lock_spending, spending_on
from proxy.storage.statements import Upsert, run
from proxy.storage.usage import UsageRow, add_to_day, add_usage


class DayFullError(UnitRefusedError):
    """Raised when the member has reached its limit of jobs for this day."""


class QueueFullError(UnitRefusedError):
    """Raised when the member has reached its limit of `waiting` jobs."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} jobs wait already")
        self.waiting = waiting


class PayloadsFullError(UnitRefusedError):
    """Raised when the payloads of the member's jobs have as many bytes as they may."""


class Numbering(Struct, frozen=True):
    """A number for a new job: at least this one, and above all of the member; negative in
    `front`."""

    least: int
    front: bool = False


_NUMBERED = Upsert(job_numbers, "next", how="next")
_WAITING = (
    select(func.count())
    .select_from(jobs)
    .where(jobs.c.member == bindparam("m"), jobs.c.state.in_(("received", "queued")))
)


class Conditions(Struct, frozen=True):
    """The conditions of a new job of a member, and what it counts as.

    `usage` counts the job, `numbering` is that of a job without a number of its own, and the
    `decision` is that of its member's budgets. With the job no more than `max_per_day` are
    submitted on the day of the usage, and before it fewer than `max_waiting` wait. The bytes of all
    payloads are shared as `payloads` says.
    """

    usage: UsageRow | None = None
    numbering: Numbering | None = None
    decision: Decision | None = None
    max_per_day: int | None = None
    max_waiting: int | None = None
    payloads: Pool | None = None

    def number(self, connection: Connection, member: str, number: Number) -> Number:
        """Return the number of the job. No other unit gets a number of the member, or reserves
        anything for it, before this one ends."""
        if self.numbering is not None:
            following = {"member": member, "next": self.numbering.least + 1}
            number = run(connection, _NUMBERED, following).scalar_one() - 1
            return -number if self.numbering.front else int(number)
        if self.decision is not None:
            lock_spending(connection, member)
        return number

    def estimate(self, connection: Connection, member: str) -> int:
        """Return what the job is expected to cost, 0 without a decision, whose errors are
        raised."""
        if self.decision is None:
            return 0
        self.decision.check(spending_on(connection, member, self.decision.day))
        return self.decision.estimate

    def count(self, connection: Connection, member: str) -> None:
        """Count the job, which is inserted. Raises `DayFullError`, `QueueFullError`,
        `PayloadsFullError`."""
        if self.payloads is not None:
            used, held = payload_bytes(connection, member)
            if not self.payloads.allows(held, used):
                raise PayloadsFullError(f"{held} bytes of {used} are of {member}")
        if self.usage is not None:
            if self.max_per_day is None:
                add_usage(connection, [self.usage])
            elif add_to_day(connection, self.usage, "submitted") > self.max_per_day:
                raise DayFullError(f"the day of {member} is full")
        if self.max_waiting is not None:
            before = count_waiting(connection, member) - 1
            if before >= self.max_waiting:
                raise QueueFullError(before)


#: The conditions of a job that is inserted as it is.
UNCONDITIONAL = Conditions()


def count_waiting(connection: Connection, member: str) -> int:
    """Return how many jobs of a member wait, in the caller's unit."""
    return int(connection.execute(_WAITING, {"m": member}).scalar_one())
