"""What clients sent for their jobs: graphs, `extra_data` and credentials, as JSON.

A payload is written once, when its job is accepted, and belongs to the job's history entry in
the end. It is apart from the job's row because it is large, and outlives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import asdict, replace
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Row,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from proxy.storage.database import Database, Repository
from proxy.storage.encryption import Cipher
from proxy.storage.job_tables import job_numbers
from proxy.storage.statements import Upsert, chunks, run, run_many
from proxy.storage.tables import KEY, AnyText, table_of

log = structlog.get_logger(__name__)


class Payload(Struct, frozen=True):
    """What a client sent for a job, as JSON: its row, by the order of the job.

    `credentials` are not in `extra_data`, and encrypted on the disk. `rewriting` is what the cloud
    runs instead of a graph with helper nodes.
    """

    graph: bytes
    extra_data: bytes
    targets: bytes | None = None
    credentials: bytes | None = None
    rewriting: bytes | None = None


#: The `size` of a payload is counted for its `member`.
job_payloads = table_of(
    Payload,
    "job_payloads",
    Column("order", KEY, primary_key=True, autoincrement=False),
    Column("member", AnyText, nullable=False, server_default=""),
    Column("size", BigInteger, nullable=False, server_default=text("0")),
)
_ORDER = bindparam("job_order", type_=BigInteger)
_ADD = insert(job_payloads)
_COUNT = Upsert(job_numbers, "payload_bytes", how="add")
_HELD = select(
    func.coalesce(func.sum(job_numbers.c.payload_bytes), 0),
    func.coalesce(
        func.sum(
            case((job_numbers.c.member == bindparam("m"), job_numbers.c.payload_bytes), else_=0)
        ),
        0,
    ),
)
_FORGET_CREDENTIALS = (
    update(job_payloads)
    .where(job_payloads.c.order == _ORDER, job_payloads.c.credentials.is_not(None))
    .values(credentials=None)
)
_OF_JOBS = job_payloads.c.order.in_(bindparam("orders", expanding=True))
_DROP = delete(job_payloads).where(_OF_JOBS).returning(job_payloads.c.member, job_payloads.c.size)
_PAYLOADS = select(job_payloads).where(_OF_JOBS)
_SIZES = select(
    job_payloads.c.order,
    func.length(job_payloads.c.graph) + func.length(job_payloads.c.extra_data),
).where(_OF_JOBS)


class PayloadRepository(Repository):
    """The payloads of jobs, by the orders of the jobs."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        super().__init__(database)
        self._cipher = cipher

    def encrypted(self, payload: Payload) -> Payload:
        """Return the payload as it is written, with its credentials encrypted."""
        if payload.credentials is None:
            return payload
        return replace(payload, credentials=self._cipher.encrypt(payload.credentials))

    async def get(self, order: int) -> Payload | None:
        """Return what the client sent, `None` if there is no such job."""
        return (await self.get_many([order])).get(order)

    async def get_many(self, orders: Iterable[int]) -> dict[int, Payload]:
        """Return what clients sent, with the credentials as long as they are stored and can be
        decrypted."""
        wanted = list(orders)

        def work(connection: Connection) -> list[Row[Any]]:
            parts = ({"orders": part} for part in chunks(wanted))
            return [row for part in parts for row in connection.execute(_PAYLOADS, part)]

        return {row.order: self._payload(row) for row in await self.database.read(work)}

    def _payload(self, row: Row[Any]) -> Payload:
        credentials = None
        if row.credentials is not None:
            credentials = self._cipher.decrypt(row.credentials)
            if credentials is None:
                log.error("credentials_read_failed", job=row.order)
        return Payload(row.graph, row.extra_data, row.targets, credentials, row.rewriting)

    async def sizes(self, orders: Iterable[int]) -> dict[int, int]:
        """Return the bytes of graphs and `extra_data`, without reading them."""
        wanted = list(orders)

        def work(connection: Connection) -> dict[int, int]:
            parts = ({"orders": part} for part in chunks(wanted))
            rows = (row for part in parts for row in connection.execute(_SIZES, part))
            return {order: int(size) for order, size in rows}

        return await self.database.read(work) if wanted else {}


def size_of(payload: Payload) -> int:
    """Return the bytes of a payload as they are counted."""
    return len(payload.graph) + len(payload.extra_data) + len(payload.rewriting or b"")


def add_payload(connection: Connection, member: str, order: int, payload: Payload) -> None:
    """Write a payload, its credentials as they are, and count its bytes for the member, in the
    caller's unit."""
    size = size_of(payload)
    run(connection, _ADD, {"order": order, "member": member, "size": size, **asdict(payload)})
    run(connection, _COUNT, {"member": member, "payload_bytes": size})


def delete_payloads(connection: Connection, orders: Sequence[int]) -> None:
    """Delete payloads, and count them no longer, in the caller's unit."""
    freed = Counter[str]()
    for part in chunks(orders):
        for member, size in connection.execute(_DROP, {"orders": part}).all():
            freed[member] += size
    run_many(
        connection,
        _COUNT,
        [{"member": member, "payload_bytes": -freed[member]} for member in sorted(freed)],
    )


def payload_bytes(connection: Connection, member: str) -> tuple[int, int]:
    """Return the bytes of all payloads, and of those of a member, in the caller's unit."""
    used, held = connection.execute(_HELD, {"m": member}).one()
    return int(used), int(held)


def forget_credentials(connection: Connection, orders: Sequence[int]) -> None:
    """Delete the credentials of payloads in the caller's unit."""
    run_many(connection, _FORGET_CREDENTIALS, [{"job_order": order} for order in orders])
