"""How long nodes and jobs took in earlier runs, by graph shape and node class."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, bindparam, delete, select

from proxy.storage.database import Repository
from proxy.storage.statements import Upsert, run_many
from proxy.storage.tables import PlainText, table_of


class RunTimeRow(Struct, frozen=True):
    """What was measured of a shape or a class (`kind`), last at `at` (ms since 1970). `value` is
    JSON: of a shape the ms of its nodes by id, of a class the ms of a node, of a job (`JOB`, named
    by `job_name`) the ms of the whole run."""

    kind: PlainText
    name: str
    value: bytes
    at: int


#: The kind of the rows about whole jobs.
JOB = "job"

run_times = table_of(RunTimeRow, "run_times", keys=("kind", "name"), rowid=False)
_PUT = Upsert(run_times)
_DROP = delete(run_times).where(
    run_times.c.kind == bindparam("k"), run_times.c.name == bindparam("n")
)


def job_name(shape: str, member: str = "") -> str:
    """Return the name of what is measured of a member's jobs of a shape, or of those of several
    members, which begins all of their names."""
    return f"{shape} {member}"


class RunTimeRepository(Repository):
    """What was measured of earlier runs."""

    async def load(self) -> list[RunTimeRow]:
        """Return all rows, the oldest first."""
        query = select(run_times).order_by(run_times.c.at, run_times.c.kind, run_times.c.name)
        return await self._records(RunTimeRow, query)

    async def put(
        self, rows: Sequence[RunTimeRow], *, forgotten: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Write rows, and delete those that are `forgotten`, by kind and name."""
        written = [asdict(row) for row in rows]
        dropped = [{"k": kind, "n": name} for kind, name in forgotten]

        def work(connection: Connection) -> None:
            run_many(connection, _PUT, written)
            run_many(connection, _DROP, dropped)

        await self.database.write(work)
