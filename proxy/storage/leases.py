"""Leases for work that only one process may do, or does once, and the fence that rejects writes of
others.

Time is the database's. Each acquisition has a higher epoch than all before; a write with an older
epoch is refused in its own transaction.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, bindparam, delete, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from proxy.storage.database import FencedError, Repository
from proxy.storage.statements import Upsert, run
from proxy.storage.tables import leases

#: The lease of the engine.
ENGINE = "engine"


class database_now(FunctionElement[int]):  # noqa: N801 (reads as the SQL function that it is)
    """The clock of the database, in ms since 1970."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(database_now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


class Fence(Struct, frozen=True):
    """The epoch of the lease under which a write was decided, which the write must carry."""

    name: str
    epoch: int


class Batch(Struct, frozen=True):
    """What one `writer` has gathered and writes together, the `number`-th of its batches. It is
    written again where it is unknown whether it was written, before any other one."""

    writer: str
    number: int


class Lease(Struct, frozen=True):
    """A lease that `holder` has, until it is not renewed in time. `address` says where the holder
    is reached, by others that know what it means."""

    name: str
    holder: str
    epoch: int
    address: str = ""

    @property
    def fence(self) -> Fence:
        """The fence of the holder's writes."""
        return Fence(self.name, self.epoch)


_FREE = Upsert(leases, how="keep")
_LOCKED = select(leases).where(leases.c.name == bindparam("lease")).with_for_update()
_HELD = select(leases).where(leases.c.name == bindparam("lease"), leases.c.expires > database_now())
_EPOCH = (
    select(leases.c.epoch)
    .where(leases.c.name == bindparam("lease"))
    .with_for_update(read=True, key_share=True)  # blocks acquiring, but not renewing
)
_NOW = select(database_now())
#: What counts once has no holder.
_FORGET = delete(leases).where(leases.c.holder == "", leases.c.expires <= database_now())
#: Seconds for which the last batch of a writer is known.
_BATCH_TTL = 30 * 86400
_COUNT = (
    update(leases)
    .where(
        leases.c.name == bindparam("writer"),
        leases.c.epoch < bindparam("at", type_=BigInteger),
    )
    .values(
        epoch=bindparam("at", type_=BigInteger),
        expires=database_now() + bindparam("ttl", type_=BigInteger),
    )
)
_MINE = update(leases).where(
    leases.c.name == bindparam("lease"),
    leases.c.holder == bindparam("by"),
    leases.c.epoch == bindparam("at"),
)
_RENEW = _MINE.values(
    expires=database_now() + bindparam("ttl", type_=BigInteger), address=bindparam("where")
)
_RELEASE = _MINE.values(expires=0, address="")
_RESERVE = _MINE.values(
    holder=bindparam("other"),
    expires=database_now() + bindparam("ttl", type_=BigInteger),
    address="",
)
_TAKE = (
    update(leases)
    .where(leases.c.name == bindparam("lease"))
    .values(
        holder=bindparam("by"),
        epoch=bindparam("at"),
        expires=database_now() + bindparam("ttl", type_=BigInteger),
        address=bindparam("where"),
    )
)


class LeaseRepository(Repository):
    """The leases of a database. Times to live are in seconds."""

    async def acquire(
        self, name: str, holder: str, ttl: float, *, alone: bool = False, address: str = ""
    ) -> Lease | None:
        """Acquire the lease if it is free, has expired or is the holder's; returns `None`
        otherwise. Others find the `address` in its row.

        With `alone` no other process can run (the data folder is locked), so that the lease of a
        previous process is taken at once.
        """

        def work(connection: Connection) -> Lease | None:
            free = {"name": name, "holder": "", "epoch": 0, "expires": 0, "address": ""}
            connection.execute(_FREE(connection), free)
            row = connection.execute(_LOCKED, {"lease": name}).one()
            now = connection.execute(_NOW).scalar_one()
            if row.expires > now and row.holder != holder and not alone:
                return None
            epoch = row.epoch + 1
            taken = {"lease": name, "by": holder, "at": epoch, "ttl": round(ttl * 1000)}
            connection.execute(_TAKE, {**taken, "where": address})
            return Lease(name, holder, epoch, address)

        return await self.database.write(work, urgent=True)

    async def use(self, name: str, ttl: float) -> bool:
        """Note the use of something that counts once within `ttl` seconds, in any process. Return
        whether this is the first."""

        def work(connection: Connection) -> bool:
            connection.execute(_FORGET)
            expires = connection.execute(_NOW).scalar_one() + round(ttl * 1000)
            used = {"name": name, "holder": "", "epoch": 0, "expires": expires, "address": ""}
            return connection.execute(_FREE(connection), used).rowcount == 1

        return await self.database.write(work)

    async def renew(self, lease: Lease, ttl: float, *, address: str = "") -> bool:
        """Extend the lease, and say where its holder is reached now; returns false if another
        holder has it."""
        values = {**_mine(lease), "ttl": round(ttl * 1000), "where": address}
        return await self.database.write(
            lambda connection: connection.execute(_RENEW, values).rowcount == 1, urgent=True
        )

    async def release(self, lease: Lease) -> None:
        """Release the lease, so that another process need not wait for its expiry."""
        await self.database.write(
            lambda connection: connection.execute(_RELEASE, _mine(lease)).rowcount
        )

    async def reserve(self, lease: Lease, holder: str, ttl: float) -> None:
        """Release the lease for another holder, who alone may acquire it within `ttl` seconds."""
        values = {**_mine(lease), "other": holder, "ttl": round(ttl * 1000)}
        await self.database.write(lambda connection: connection.execute(_RESERVE, values).rowcount)

    async def holder(self, name: str) -> Lease | None:
        """Return who holds the lease, if it has not expired."""
        row = await self._first(_HELD, {"lease": name})
        return None if row is None else Lease(row.name, row.holder, row.epoch, row.address)


def _mine(lease: Lease) -> dict[str, Any]:
    return {"lease": lease.name, "by": lease.holder, "at": lease.epoch}


def is_first(connection: Connection, batch: Batch | None) -> bool:
    """Return whether a unit writes a batch for the first time, so that what it adds counts once. A
    unit without a batch is never repeated."""
    if batch is None:
        return True
    counted = {"writer": batch.writer, "at": batch.number, "ttl": _BATCH_TTL * 1000}
    if connection.execute(_COUNT, counted).rowcount:
        return True
    # It was written before, or is the first one of its writer.
    expires = connection.execute(_NOW).scalar_one() + _BATCH_TTL * 1000
    first = {"name": batch.writer, "holder": "", "epoch": batch.number, "expires": expires}
    is_new = run(connection, _FREE, {**first, "address": ""}).rowcount == 1
    if is_new:
        connection.execute(_FORGET)
    return is_new


def check_fence(connection: Connection, fence: Fence | None) -> None:
    """Check that the epoch of a unit is current. Raises `FencedError`."""
    if fence is None:
        return
    row = run(connection, _EPOCH, {"lease": fence.name}).fetchone()
    epoch = None if row is None else row[0]
    if epoch != fence.epoch:
        raise FencedError(
            f"the lease {fence.name} has epoch {epoch} now and this write {fence.epoch}: "
            "another process leads"
        )
