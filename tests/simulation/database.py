"""The database of the simulated replicas: real repositories on one SQLite in memory.

A unit runs whole at one moment, between the way there and the way back: it may be slow, fail before
its commit, or succeed while its answer is lost. Time in the database is the world's.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import msgspec
from simulation.plan import MEMBERS
from sqlalchemy import Connection, StaticPool, create_engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.storage.database import (
    BusyError,
    Database,
    OutcomeUnknownError,
    StorageError,
    UnitRefusedError,
    ValueRefusedError,
)
from proxy.storage.members import MemberRepository
from proxy.storage.postgresql import SETTLING, UNIT_TIMEOUT
from proxy.storage.sqlite import FILE
from proxy.storage.start import open_folder
from proxy.storage.usage import FACT

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")

#: Seconds after which a lease is answered whose answer is late.
LATE_LEASE = (2.0, 6.0)
#: Seconds between two looks whether the server is there.
INTERVAL = 0.5


#: The revision of the schema of the next release.
NEXT = "9999"

#: What only the engine whose term it is may write: each tells the epoch that the lease has.
_GUARDS = """
CREATE TRIGGER guard_history AFTER INSERT ON history BEGIN
    SELECT engine_wrote('end of ' || NEW.prompt_id, epoch) FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_state AFTER UPDATE OF state ON jobs WHEN NEW.state != OLD.state BEGIN
    SELECT engine_wrote(NEW.state || ' ' || NEW.prompt_id, epoch)
    FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_removed AFTER DELETE ON jobs WHEN OLD.state != 'received' BEGIN
    SELECT engine_wrote('removed ' || OLD.prompt_id, epoch) FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_more_costs AFTER UPDATE ON costs BEGIN
    SELECT engine_wrote('costs of ' || NEW.member, epoch) FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_deliveries AFTER INSERT ON webhook_deliveries BEGIN
    SELECT engine_wrote('delivery of ' || NEW.message, epoch)
    FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_ended_usage AFTER UPDATE ON usage
    WHEN NEW.completed + NEW.failed + NEW.cancelled > OLD.completed + OLD.failed + OLD.cancelled
    BEGIN SELECT engine_wrote('usage of ' || NEW.member, epoch)
    FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_costs AFTER INSERT ON costs BEGIN
    SELECT engine_wrote('costs of ' || NEW.member, epoch) FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_messages AFTER INSERT ON webhook_messages BEGIN
    SELECT engine_wrote('message ' || NEW.id, epoch) FROM leases WHERE name = 'engine'; END;
CREATE TRIGGER guard_new AFTER INSERT ON jobs BEGIN SELECT taken_in(NEW.member); END;
CREATE TRIGGER guard_price AFTER INSERT ON jobs WHEN NEW.partner_nodes = 0 BEGIN
    SELECT unpriced(NEW.member); END;
CREATE TRIGGER guard_estimate AFTER UPDATE OF estimate ON jobs
    WHEN NEW.estimate < NEW.partner_nodes BEGIN SELECT unpriced(NEW.member); END;
"""

#: What the database refuses for ever of some jobs, as a value that does not fit: that they are
#: sent, the names of their outputs, that they have succeeded.
_REFUSALS = """
CREATE TRIGGER refuse_sending BEFORE UPDATE OF state ON jobs
    WHEN NEW.state = 'submitting' AND refuses('sending', NEW.prompt_id)
    BEGIN SELECT RAISE(ABORT, 'does not fit'); END;
CREATE TRIGGER refuse_names BEFORE INSERT ON outputs WHEN refuses('names', NEW.job)
    BEGIN SELECT RAISE(ABORT, 'does not fit'); END;
CREATE TRIGGER refuse_end BEFORE INSERT ON history
    WHEN NEW.state = 'succeeded' AND refuses('end', NEW.prompt_id)
    BEGIN SELECT RAISE(ABORT, 'does not fit'); END;
"""


#: What is kept of a token.
_TOKEN = "member, id, digest, note, created"

_WAITING = "SELECT count(*) FROM jobs WHERE member = ? AND state IN ('received', 'queued')"


#: The tables that the database may refuse for a while, each alone, and how they are written.
WRITES = {
    "jobs": "UPDATE",
    "history": "INSERT",
    "usage": "INSERT",
    "costs": "INSERT",
    "outputs": "INSERT",
    "files": "INSERT",
    "webhook_messages": "INSERT",
    "webhook_deliveries": "UPDATE",
}
_TAKES = "".join(
    f"CREATE TRIGGER takes_{table} BEFORE {how} ON {table} BEGIN SELECT takes('{table}'); END;\n"
    for table, how in WRITES.items()
)


class Server:
    """The one SQLite of this process, emptied for each run."""

    def __init__(self) -> None:
        self.raw = sqlite3.connect(":memory:", check_same_thread=False)
        self.now: Callable[[], float] = lambda: 0.0
        engine = create_engine(
            "sqlite://",
            creator=lambda: self.raw,
            poolclass=StaticPool,
            isolation_level="AUTOCOMMIT",
        )
        self.connection = engine.connect()
        #: Called with what the engine has written, and the epoch of its lease.
        self.engine_wrote: Callable[[str, int], None] = lambda _what, _epoch: None
        self.raw.create_function(
            "engine_wrote", 2, lambda what, epoch: self.engine_wrote(what, epoch)
        )
        #: The epoch of the fence of the transaction under way, if it has one.
        self.epoch: int | None = None
        #: Members of whom a job was taken in or sent while no price was known.
        self.unpriced: set[str] = set()
        self.raw.create_function("unpriced", 1, self.unpriced.add)
        #: Members of whom more jobs were taken in than may wait.
        self.overfull: set[str] = set()
        self._most_waiting: dict[str, int | None] = {}
        #: The token of each member.
        self.tokens: dict[str, str] = {}
        self._token_rows: dict[str, tuple[Any, ...]] = {}
        self._taken_in: set[str] = set()
        self.raw.create_function("taken_in", 1, self._taken_in.add)
        #: Raises an error while a table is not taken.
        self.takes: Callable[[str], None] = lambda _: None
        self.raw.create_function("takes", 1, lambda table: self.takes(table))
        self._refused = 0.0
        self.raw.create_function("refuses", 2, self._refuses)
        self.raw.create_function("julianday", 1, lambda _: self.now() / 86400 + 2440587.5)
        self._empty = asyncio.run(_empty(self.tokens))

    @property
    def is_migrated(self) -> bool:
        """Whether the schema is that of the next release."""
        revision = self.raw.execute("SELECT version_num FROM alembic_version").fetchone()
        return bool(revision[0] == NEXT)

    def migrate(self) -> None:
        """Bring the schema to that of the next release: each table has one more column."""
        if self.is_migrated:
            return
        tables = self.raw.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE '%WITHOUT%' "
            "AND name NOT LIKE 'sqlite_%' AND name != 'alembic_version'"
        ).fetchall()
        for (table,) in tables:
            self.raw.execute(f"ALTER TABLE {table} ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'")
        self.raw.execute("UPDATE alembic_version SET version_num = ?", (NEXT,))

    def _refuses(self, what: str, prompt_id: str) -> bool:
        return crc32(f"{what} {prompt_id}".encode()) < self._refused * 2**32

    def refuses(self, prompt_id: str) -> bool:
        """Return whether anything of a job is refused for ever."""
        return any(self._refuses(what, prompt_id) for what in ("sending", "names", "end"))

    def restart(
        self,
        now: Callable[[], float],
        engine_wrote: Callable[[str, int], None],
        *,
        refused: float = 0.0,
        members: Collection[Member] = (),
    ) -> None:
        """Forget all rows but those of the `members`; `now` is the clock, in seconds since 1970. Of
        so many jobs anything is `refused`."""
        self.now, self.engine_wrote, self._refused = now, engine_wrote, refused
        self.takes = lambda _: None
        self.unpriced.clear()
        self.overfull.clear()
        self.raw.deserialize(self._empty)
        self._most_waiting = {}
        rows = self.raw.execute(f"SELECT {_TOKEN} FROM tokens").fetchall()
        self._token_rows = {row[0]: row for row in rows}
        for member in members:
            self.change_member(member)

    def change_member(self, member: Member, *, removed: bool = False, token: bool = True) -> None:
        """Change a member, or remove it, with or without its token, as a command does."""
        data, name = b"{}" if removed else msgspec.json.encode(member), member.name
        values = data, removed, name
        self.raw.execute("UPDATE members SET data = ?, removed = ? WHERE key = ?", values)
        self.raw.execute("DELETE FROM tokens WHERE member = ?", (name,))
        if token and not removed:
            row = self._token_rows[name]
            self.raw.execute(f"INSERT INTO tokens ({_TOKEN}) VALUES (?, ?, ?, ?, ?)", row)
        self.raw.execute(
            "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS BLOB) "
            "WHERE name = 'members_revision'"
        )
        most, before = member.limits.max_queued, self._most_waiting.get(name, 0)
        self._most_waiting[name] = None if None in (most, before) else max(most or 0, before or 0)

    def learn(self, identity: str, **facts: str) -> None:
        """Store what a probe has found about an account."""
        for name, value in facts.items():
            self.raw.execute(
                "INSERT INTO observations (identity, kind, name, value, count, first_at, last_at) "
                "VALUES (?, ?, ?, ?, 1, 0, 0)",
                (identity, FACT, name, msgspec.json.encode(value)),
            )

    @contextlib.contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Connection]:
        """Run a block in a transaction."""
        self.raw.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        self.epoch = None
        self._taken_in.clear()
        try:
            yield self.connection
        except BaseException:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            raise
        self.raw.execute("COMMIT" if writes else "ROLLBACK")
        for member in self._taken_in:
            most, waiting = self._most_waiting.get(member), self.raw.execute(_WAITING, (member,))
            if most is not None and waiting.fetchone()[0] > most:
                self.overfull.add(member)


@cache
def server() -> Server:
    """Return the server of this process."""
    return Server()


async def _empty(tokens: dict[str, str]) -> bytes:
    """Return a database with all tables and the members, whose `tokens` it adds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = await open_folder(folder)
        directory = Directory(MemberRepository(database), marker=None)
        await directory.load()
        for name in MEMBERS:
            await directory.add(Member(name))
            tokens[name], _ = await directory.new_token(name)
        await directory.close()
        await database.close()
        raw = sqlite3.connect(folder / FILE)
        raw.execute("PRAGMA journal_mode = DELETE")
        raw.executescript(_GUARDS + _REFUSALS + _TAKES)
        raw.close()
        return (folder / FILE).read_bytes()


class SimulatedDatabase(Database):
    """The way of one process to the server, with the semantics of `PostgresqlDatabase`, or
    without `is_server` those of `SqliteDatabase`."""

    def __init__(self, world: World, *, is_server: bool) -> None:
        super().__init__()
        self._is_server = is_server
        self._world = world
        self._process = world.process()
        self._weather = world.weather
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads. Raises `StorageError`."""
        self._refuse()
        return await self._unit(work, writes=False)

    async def write(
        self, work: Callable[[Connection], T], *, long: bool = False, urgent: bool = False
    ) -> T:
        """Run a unit that writes; a caller that is cancelled does not stop it. Raises
        `StorageError`."""
        del long
        self._refuse()
        unit = self._lease_unit(work) if urgent else self._unit(work, writes=True)
        task = asyncio.create_task(unit, name="write to the database")
        task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def watch(self) -> None:
        """Keep `problem` true."""
        while True:
            if self.problem is None:
                await self._weather.outage.wait()
            await asyncio.sleep(INTERVAL)
            away = self._is_server and self._weather.database_away(self._process)
            self.problem = "it does not answer" if away else None

    async def close(self) -> None:
        """Refuse all units from now on."""
        self._closed = True

    async def _lease_unit(self, work: Callable[[Connection], T]) -> T:
        """Run a unit of leases; its answer may be late, and the last for a while."""
        value = await self._unit(work, writes=True)
        if self._world.leads(self._process) and self._world.take_ambush(self._process, "lease"):
            await asyncio.sleep(self._weather.draw(*LATE_LEASE))
        return value

    async def _unit(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        weather = self._weather
        await asyncio.sleep(weather.way_to_database(self._process))
        if writes and self._world.leads(self._process):
            await self._world.ambush(self._process, "write")
        if weather.database_away(self._process):
            await asyncio.sleep(weather.draw(0.0, UNIT_TIMEOUT))
            raise StorageError("the database does not answer")
        if writes and weather.lasts("disk_full"):
            raise StorageError("the disk is full")
        if weather.chance("unit_refused") and writes:
            raise BusyError("the database is overloaded")
        if weather.chance("unit_failed"):
            raise StorageError("the connection to the database was lost before the commit")
        if writes and weather.chance("unit_repeated"):
            self._run_in_vain(work)
        value = self._run(work, writes=writes)
        await asyncio.sleep(weather.way_to_database(self._process))
        if writes and self._is_server:
            await self._settle()
        return value

    @staticmethod
    def _run_in_vain(work: Callable[[Connection], T]) -> None:
        """Run a unit whose transaction is rolled back, as after a deadlock; it is run again."""
        refusals = sqlite3.Error, SQLAlchemyError, StorageError, UnitRefusedError
        with contextlib.suppress(*refusals), server().transaction(writes=True) as connection:
            work(connection)
            raise StorageError("deadlock")

    def _run(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        try:
            with server().transaction(writes=writes) as connection:
                value = work(connection)
        except IntegrityError as error:
            raise ValueRefusedError(f"the database refused: {error.orig}") from error
        except (sqlite3.Error, SQLAlchemyError) as error:
            raise StorageError(f"the database refused: {error}") from error
        if writes:
            self.commits += 1
            self.units += 1
        return value

    async def _settle(self) -> None:
        """Find out whether a transaction was committed whose answer was lost."""
        weather = self._weather
        if not (weather.database_away(self._process) or weather.chance("answer_lost")):
            return
        ends = self._world.loop.time() + SETTLING
        while True:
            await asyncio.sleep(weather.draw(0.05, 1.0))
            if not weather.database_away(self._process) and not weather.chance("never_settled"):
                return
            if self._world.loop.time() >= ends:
                raise OutcomeUnknownError("the connection to the database was lost during a write")

    def _refuse(self) -> None:
        if self._closed:
            raise StorageError("the database is closed")
        if self.problem is not None:
            raise StorageError(f"the database is unavailable: {self.problem}")


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # a caller that was cancelled does not fetch it
