"""The schema and its versions: made, brought up to date, or refused.

A new database gets the tables as they are in `tables.py`; an older one goes through the revisions
in `versions` (Alembic). Both happen in one unit, so that two processes do not do it at once.

Replicas are upgraded one after the other, so that a release works with the schema of the next one:
a revision adds what older programs need not know (expand), and what they need goes with a later
release (contract). The database says which is the oldest revision whose program may use it.
"""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import Connection, inspect, text

from proxy.storage.database import Database, StorageError
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import metadata

log = structlog.get_logger(__name__)

#: The revision of `tables.py`.
HEAD = "0001"
#: The revision of the oldest program that may use this schema. A revision that only adds leaves it;
#: one that takes something away makes it the first revision whose program does without.
OLDEST = "0001"

#: A number for PostgreSQL's lock, any that nothing else uses.
_LOCK = 0x636F6D6679

_OLDEST = "oldest_schema"


class UnknownSchemaError(StorageError):
    """The database was written by a version of the program that is newer than this one."""


async def migrate(database: Database) -> bool:
    """Bring the schema to `HEAD`; says whether there was something to do.

    A newer one stays if it bears this program. Raises `UnknownSchemaError`, `StorageError`.
    """
    if await database.read(_is_ready):
        return False
    before, now = await database.write(_migrate, long=True)
    if before not in (None, now):  # another process may have migrated it meanwhile
        log.info("schema_migrated", before=before, now=now)
    return before != now


def revision(connection: Connection) -> str | None:
    """The schema's revision, `None` where there is no schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def is_usable(connection: Connection) -> bool:
    """Whether this version of the program can use the schema as it is, or migrate it."""
    found = revision(connection)
    return found is None or knows(found) or _bears_us(connection)


def knows(schema: str) -> bool:
    """Whether this version of the program can use or migrate a schema."""
    versions = Path(__file__).parent / "versions"
    return any(versions.glob(f"r{schema}_*.py"))


def _is_ready(connection: Connection) -> bool:
    found = revision(connection)
    return found == HEAD or (found is not None and not knows(found) and _bears_us(connection))


def _bears_us(connection: Connection) -> bool:
    """Whether a schema that is not known bears this program."""
    oldest = get_meta(connection, _OLDEST)
    return isinstance(oldest, str) and oldest <= HEAD


def _migrate(connection: Connection) -> tuple[str | None, str | None]:
    """Bring the schema to `HEAD`; the revision that was there before, and the one now."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = revision(connection)
    if _is_ready(connection):
        return before, before
    if before is None:
        metadata.create_all(connection)
        connection.execute(
            text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        )
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    else:
        upgrade(connection, before)
    put_meta(connection, _OLDEST, OLDEST)
    return before, HEAD


def upgrade(connection: Connection, before: str | None) -> None:
    """Run the revisions behind `before` in the caller's unit. Raises `UnknownSchemaError`."""
    from alembic import command  # a start with a current schema does without
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    connection.execute(text("SELECT 1"))  # Alembic leaves a transaction alone that is under way
    try:
        if before is not None:
            ScriptDirectory.from_config(config).get_revision(before)
    except CommandError as error:
        raise UnknownSchemaError(
            f"the database has the schema {before}, and this version of comfy-cloud-proxy knows "
            f"none behind {HEAD}: run the version that wrote it, or restore a copy from before"
        ) from error
    command.upgrade(config, "head")
