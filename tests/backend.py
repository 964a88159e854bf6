"""What the tests run on: SQLite, or with `--backend=postgresql` PostgreSQL.

Each data folder has a database and channels of its own, which stay for a restart.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import servers

from proxy.settings import AccountSettings, Settings
from proxy.storage.database import Database
from proxy.storage.sqlite import FILE
from proxy.storage.start import migrate_server, open_folder, open_server


@dataclass
class _Servers:
    postgresql: servers.Postgresql
    known: dict[Path, dict[str, str]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def settings(self, folder: Path) -> dict[str, str]:
        if folder not in self.known:
            number = next(self.numbers)
            self.known[folder] = {"database": self.postgresql.create(f"folder-{number}")}
        return self.known[folder]


_running: _Servers | None = None
#: The file of a database without rows.
_empty = b""


@contextmanager
def running_servers() -> Iterator[None]:
    """Let what the block starts use PostgreSQL.

    Inside the process of tests the database may take its time, and a lease lasts, however busy the
    machine: what happens while the database is away is tested where it is away.
    """
    from proxy.leader import leadership
    from proxy.storage import postgresql as module

    global _running
    module.UNIT_TIMEOUT = leadership.LENGTH = 30.0
    with servers.postgresql() as postgresql:
        _running = _Servers(postgresql)
        try:
            yield
        finally:
            _running = None


def settings_of(folder: Path, *, accounts: Iterable[AccountSettings] = (), **more: Any) -> Settings:
    """The settings of a proxy with this data folder, and more of them as people write them."""
    servers: dict[str, Any] = dict(_of_servers(folder))
    return Settings(data_dir=folder, accounts=tuple(accounts), **servers, **more)


def environment_of(folder: Path) -> dict[str, str]:
    """The settings of the servers as environment variables."""
    return {f"COMFY_PROXY_{name.upper()}": value for name, value in _of_servers(folder).items()}


def _of_servers(folder: Path) -> dict[str, str]:
    return {} if _running is None else _running.settings(folder.absolute())


async def add_database(folder: Path) -> None:
    """Put a database with all tables and without rows into a data folder that has none.

    To make one takes 20 ms, which nearly every test with a proxy would need. How it is made is
    tested in `tests/storage`, and by each process that serves a new folder.
    """
    global _empty
    if _running is not None:
        return
    if not _empty:
        with tempfile.TemporaryDirectory() as name:
            await (await open_folder(Path(name))).close()
            _empty = (Path(name) / FILE).read_bytes()
    _add_file(folder / FILE, _empty)


def _add_file(path: Path, content: bytes) -> None:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)


async def open_database(folder: Path, **options: Any) -> Database:
    """The database of a proxy with this data folder, with all tables."""
    if _running is None:
        await add_database(folder)
        return await open_folder(folder, **options)
    settings = settings_of(folder)
    await migrate_server(settings)
    return await open_server(settings)
