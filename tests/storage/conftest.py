"""Real databases: SQLite in a file, and PostgreSQL where it is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from proxy.storage.database import Database, open_sqlite
from proxy.storage.migrations import migrate

#: Who runs the server where the tests run as root, which it refuses.
_ACCOUNT = "nobody"


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).resolve().parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a server of the tests' own."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="ccp-pg-"))
    user = None
    if os.geteuid() == 0:
        user = _ACCOUNT
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def run(*command: str | Path) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        subprocess.run(
            command, user=user, check=True, capture_output=True, cwd=folder, env=environment
        )

    port, data = _free_port(), folder / "data"
    run(binaries / "initdb", "-D", data, "-U", "proxy", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c shared_buffers=16MB -c fsync=off"
    )
    start = ("-w", "-l", str(folder / "log"), "-o", options, "start")
    run(binaries / "pg_ctl", "-D", data, *start)
    try:
        yield f"postgresql://proxy@127.0.0.1:{port}/postgres"
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def _empty(connection: Connection) -> None:
    connection.exec_driver_sql("DROP SCHEMA public CASCADE")
    connection.exec_driver_sql("CREATE SCHEMA public")


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        database: Database = await open_sqlite(tmp_path / "data" / "proxy.db")
    else:
        from proxy.storage.postgresql import open_postgresql

        database = await open_postgresql(request.getfixturevalue("postgresql"))
        await database.write(_empty)
    yield database
    await database.close()


@pytest.fixture
async def database(empty_database: Database) -> Database:
    """A database with all tables."""
    await migrate(empty_database)
    return empty_database
