"""A data folder that grows into a team: its SQLite database is copied into PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, create_engine, func, insert, select, text
from sqlalchemy.engine import URL

from proxy.storage.database import FILE, Database, StorageError
from proxy.storage.encryption import SECRET_FILE, adopt_secrets
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.statements import Upsert
from proxy.storage.tables import audit, history, jobs, leases, meta, metadata

#: Rows that are read and written at once; one may have some MB.
_ROWS = 50
#: What each database says of itself.
_OWN = ("oldest_schema", "secrets", "readiness")
_TABLES = [table for table in metadata.sorted_tables if table not in (leases, meta)]
_PUT_META = Upsert(meta, ["name"], ["value"])


async def copy_folder(folder: Path, target: Database) -> dict[str, int]:
    """Copy the records of a data folder into a PostgreSQL database; the rows of each table.

    Both have the schema of this version, and nobody uses them. The folder stays as it is; the
    secret that its credentials are encrypted with is copied, too. Raises `StorageError`; then
    nothing is copied.
    """
    if await LeaseRepository(target).holder(ENGINE) is not None:
        raise StorageError("replicas use the database: stop all of them")
    secret = folder / SECRET_FILE
    secrets = secret.read_text().split() if secret.exists() else []
    engine = create_engine(URL.create("sqlite", database=str(folder / FILE)))

    def work(connection: Connection) -> dict[str, int]:
        with engine.connect() as source:
            _refuse_filled(connection)
            adopt_secrets(connection, secrets)
            return _copy(source, connection)

    try:
        return await target.write(work, long=True)
    finally:
        engine.dispose()


def _refuse_filled(connection: Connection) -> None:
    for table in _TABLES:
        if connection.execute(select(table).limit(1)).first() is not None:
            raise StorageError(
                f"the database is not empty (its table {table.name} has rows): use a new one"
            )


def _copy(source: Connection, target: Connection) -> dict[str, int]:
    copied = {}
    for table in _TABLES:
        copied[table.name] = 0
        rows = source.execution_options(yield_per=_ROWS).execute(select(table))
        for some in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in some])
            copied[table.name] += len(some)
    for row in source.execute(select(meta).where(meta.c.name.not_in(_OWN))).mappings():
        target.execute(_PUT_META(target), dict(row))
    _continue_keys(source, target)
    return copied


def _continue_keys(source: Connection, target: Connection) -> None:
    """Let new keys be higher than all before, also than those whose rows are gone."""
    ever = "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'"
    used = source.execute(text(ever)).scalar() or 0
    for table, keys in ((jobs, (jobs.c.key, history.c.key)), (audit, (audit.c.key,))):
        highest = max(
            target.execute(select(func.coalesce(func.max(key), 0))).scalar_one() for key in keys
        )
        if table is jobs:
            highest = max(highest, used)
        if highest:
            sequence = func.pg_get_serial_sequence(table.name, "key")
            target.execute(select(func.setval(sequence, highest)))
