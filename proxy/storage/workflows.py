"""Workflows that clients publish to each other: the last one of each publisher, for a day."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, Index, bindparam, delete, select

from proxy.storage.database import Repository
from proxy.storage.statements import Upsert
from proxy.storage.tables import PlainText, table_of

#: Workflows of a member that are kept, and their bytes.
MAX_WORKFLOWS, MAX_MEMBER_BYTES = 100, 32 * 1024 * 1024
#: Nanoseconds after which a workflow is deleted.
MAX_AGE = 86_400 * 10**9


class PublishedWorkflow(Struct, frozen=True):
    """A workflow and its publisher, a client of the member. `message` is the JSON text of the
    message to subscribers, `published_at` in ns since 1970."""

    member: str
    publisher: str
    published_at: int
    size: int
    message: PlainText


workflows = table_of(
    PublishedWorkflow,
    "published_workflows",
    Index("ix_published_workflows_published_at", "published_at"),
    keys=("member", "publisher"),
)
_PUT = Upsert(workflows)
_GET = select(workflows).where(
    workflows.c.member == bindparam("m"), workflows.c.publisher == bindparam("p")
)
_LISTED = (
    select(workflows.c.publisher, workflows.c.size)
    .where(workflows.c.member == bindparam("m"))
    .order_by(workflows.c.published_at.desc(), workflows.c.publisher)
)


class WorkflowRepository(Repository):
    """The published workflows of all members."""

    async def put(self, workflow: PublishedWorkflow) -> None:
        """Replace the publisher's workflow; delete the member's oldest beyond the limits."""

        def work(connection: Connection) -> None:
            expired = workflows.c.published_at < workflow.published_at - MAX_AGE
            connection.execute(delete(workflows).where(expired))
            connection.execute(_PUT(connection), asdict(workflow))
            total, deleted = 0, []
            listed = connection.execute(_LISTED, {"m": workflow.member}).all()
            for count, (publisher, size) in enumerate(listed, 1):
                total += size
                if count > MAX_WORKFLOWS or total > MAX_MEMBER_BYTES:
                    deleted.append(publisher)
            if deleted:
                mine = workflows.c.member == workflow.member
                connection.execute(
                    delete(workflows).where(mine, workflows.c.publisher.in_(deleted))
                )

        await self.database.write(work)

    async def get(self, member: str, publisher: str) -> PublishedWorkflow | None:
        """Return the publisher's workflow."""
        return await self._record(PublishedWorkflow, _GET, {"m": member, "p": publisher})

    async def publishers(self, member: str) -> list[str]:
        """Return who has published a workflow, the first publisher first."""
        rows = await self._all(_LISTED, {"m": member})
        return [row.publisher for row in reversed(rows)]
