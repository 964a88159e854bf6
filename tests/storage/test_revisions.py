"""The schema: made, migrated, the same either way, and refused where it is not known."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

from proxy.storage import start
from proxy.storage.database import Database, UnknownSchemaError
from proxy.storage.revisions import upgrade
from proxy.storage.start import (
    HEAD,
    OLDEST,
    is_usable,
    migrate,
    revision,
)
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import metadata


def _differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_a_new_database_gets_the_newest_schema_once(empty_database: Database) -> None:
    assert await migrate(empty_database)
    assert not await migrate(empty_database)
    assert await empty_database.read(revision) == HEAD


def test_the_start_alone_knows_all_tables() -> None:
    """A table whose module nothing imports would be missing in a new database."""
    names = "import {}; from proxy.storage.tables import metadata; print(*sorted(metadata.tables))"
    modules = [f"proxy.storage.{path.stem}" for path in Path(start.__file__).parent.glob("*.py")]
    commands = [names.format(wanted) for wanted in (start.__name__, ",".join(modules))]
    known, every = (
        subprocess.run([sys.executable, "-c", command], capture_output=True, check=True).stdout
        for command in commands
    )
    assert known == every != b""


_NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("colour", sa.Text(), nullable=False, server_default="grey"))
    op.create_table("paints", sa.Column("name", sa.Text(), primary_key=True))
"""


async def test_a_revision_runs_in_one_unit_with_what_comes_behind_it(
    database: Database, tmp_path: Path
) -> None:
    revisions = Path(shutil.copytree(start._REVISIONS, tmp_path / "migrations"))
    (revisions / "r9000_colour.py").write_text(_NEXT.format(head=HEAD))

    def work(connection: Connection, *, fails: bool) -> None:
        upgrade(connection, HEAD, revisions)
        assert connection.execute(text("SELECT colour FROM jobs")).all() == []
        assert inspect(connection).get_pk_constraint("paints")["name"] == "pk_paints"
        if fails:
            raise KeyError

    with pytest.raises(KeyError):
        await database.write(partial(work, fails=True), long=True)
    assert await database.read(revision) == HEAD
    await database.write(partial(work, fails=False), long=True)
    assert await database.read(revision) == "9000"


async def test_two_that_migrate_at_once_make_one_schema(empty_database: Database) -> None:
    await asyncio.gather(migrate(empty_database), migrate(empty_database))
    assert await empty_database.write(_differences, long=True) == []


def _make_newer(connection: Connection, oldest: object) -> None:
    """Let the schema be that of a later release, which bears programs from `oldest` on."""
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    put_meta(connection, "oldest_schema", oldest)


@pytest.mark.parametrize("oldest", ["9998", None])
async def test_a_newer_schema_that_bears_no_older_programs_is_refused(
    database: Database, oldest: object
) -> None:
    await database.write(lambda connection: _make_newer(connection, oldest))
    assert not await database.read(is_usable)
    with pytest.raises(UnknownSchemaError, match=r"schema 9999.*run the version that wrote it"):
        await migrate(database)


async def test_a_newer_schema_that_bears_this_program_stays(database: Database) -> None:
    await database.write(lambda connection: _make_newer(connection, HEAD))
    assert await database.read(is_usable)
    assert not await migrate(database)
    assert await database.read(revision) == "9999"


async def test_a_schema_says_which_programs_it_bears(empty_database: Database) -> None:
    await migrate(empty_database)
    assert await empty_database.read(lambda found: get_meta(found, "oldest_schema")) == OLDEST
    assert OLDEST <= HEAD
