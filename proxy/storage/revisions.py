"""Bring a schema to the newest revision, with Alembic.

Alone in its module, because only a start that migrates needs Alembic.
"""

from __future__ import annotations

from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from proxy.storage.database import UnknownSchemaError
from proxy.storage.tables import metadata


def upgrade(connection: Connection, before: str, folder: Path) -> None:
    """Run the revisions in `folder` after `before` in the caller's transaction. Raises
    `UnknownSchemaError`."""
    script = ScriptDirectory(folder, version_locations=[folder])
    try:
        script.get_revisions(before)
    except CommandError as error:
        raise UnknownSchemaError(
            f"the database has the schema {before}, which is newer than this version of "
            f"comfy-cloud-proxy knows ({script.get_current_head()}): run the version that wrote "
            "it, or restore an older backup"
        ) from error
    missing = list(script.iterate_revisions("head", before))
    context = MigrationContext.configure(connection, opts={"target_metadata": metadata})
    with Operations.context(context):  # names constraints as `metadata` does
        for script_ in reversed(missing):
            script_.module.upgrade()
    connection.execute(text("DELETE FROM alembic_version"))
    head = {"head": script.get_current_head()}
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), head)
