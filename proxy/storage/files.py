"""Local names of files, the names that outputs were given, and which account has which content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)

from proxy.storage.database import Database
from proxy.storage.statements import Upsert, get_meta, put_meta
from proxy.storage.tables import blobs, file_counters, files, outputs

#: Values in one `IN`; databases have limits for them.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A local name and the content behind it; `path` is below the folder of the `type`.

    `modified` is in seconds since 1970. `job` is the id of the job that made the file.
    """

    member: str
    type: str
    path: str
    cloud_name: str
    cloud_type: str
    hash: str | None
    size: int | None
    media_type: str
    modified: float
    account: str
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Counter:
    """The number that a name with this stem has."""

    type: str
    subfolder: str
    stem: str
    number: int


@dataclass(frozen=True, slots=True)
class GivenNames:
    """The names that the outputs of a node were given, as JSON."""

    job: str
    node: str
    given: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A content that the account with this identity was sent, or that was fetched from it."""

    identity: str
    cloud_name: str
    sent: bool
    hash: str
    size: int
    seen_at: int


_FILE_COLUMNS = [column.name for column in files.c if not column.primary_key]
_PUT_FILE = Upsert(files, ["member", "type", "path"], _FILE_COLUMNS)
_ADD_FILE = Upsert(files, ["member", "type", "path"])
_COUNT = Upsert(file_counters, ["member", "type", "subfolder", "stem"], ["number"], how="highest")
_PUT_GIVEN = Upsert(outputs, ["member", "job", "node"], ["given"])
_PUT_BLOB = Upsert(blobs, ["identity", "cloud_name", "sent"], ["hash", "size", "seen_at"])

_GET = select(files).where(
    files.c.member == bindparam("m"),
    files.c.type == bindparam("t"),
    files.c.path == bindparam("p"),
)
_BELOW = (
    select(literal(1))
    .where(
        files.c.member == bindparam("m"),
        files.c.type == bindparam("t"),
        files.c.path >= bindparam("first", type_=files.c.path.type),
        files.c.path < bindparam("last", type_=files.c.path.type),
    )
    .limit(1)
)
_RECORDS = (
    select(files)
    .where(files.c.member == bindparam("m"), files.c.type == bindparam("t"))
    .order_by(files.c.modified, files.c.path)
)
_PATHS = (
    select(files.c.path)
    .where(files.c.member == bindparam("m"), files.c.type == bindparam("t"))
    .order_by(files.c.path)
)
_NUMBER = select(file_counters.c.number).where(
    file_counters.c.member == bindparam("m"),
    file_counters.c.type == bindparam("t"),
    file_counters.c.subfolder == bindparam("f"),
    file_counters.c.stem == bindparam("s"),
)
_GIVEN = select(outputs.c.given).where(
    outputs.c.member == bindparam("m"),
    outputs.c.job == bindparam("j"),
    outputs.c.node == bindparam("n"),
)
_HASH_OF = (
    select(blobs.c.hash)
    .where(blobs.c.identity == bindparam("i"), blobs.c.cloud_name == bindparam("n"))
    .order_by(blobs.c.seen_at.desc(), blobs.c.sent)
    .limit(1)
)
_SENT_AS = (
    select(blobs.c.cloud_name)
    .where(blobs.c.hash == bindparam("h"), blobs.c.identity == bindparam("i"), blobs.c.sent)
    .order_by(blobs.c.seen_at.desc())
    .limit(1)
)
_NAMES = (
    select(blobs.c.identity, blobs.c.cloud_name)
    .where(blobs.c.hash == bindparam("h"), blobs.c.sent)
    .order_by(blobs.c.seen_at)
)


class FileRepository:
    """The files of all members. Everything raises `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- names -----------------------------------------------------------------------------

    async def get(self, member: str, type_: str, path: str) -> StoredFile | None:
        """The file at a place."""

        def work(connection: Connection) -> StoredFile | None:
            row = connection.execute(_GET, {"m": member, "t": type_, "p": path}).one_or_none()
            return None if row is None else StoredFile(*row)

        return await self._database.read(work)

    async def get_many(
        self, member: str, places: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredFile]:
        """The files at those places (type and path) where there is one."""
        wanted: dict[str, list[str]] = {}
        for type_, path in places:
            wanted.setdefault(type_, []).append(path)

        def work(connection: Connection) -> dict[tuple[str, str], StoredFile]:
            found = {}
            for type_, paths in wanted.items():
                for some in _chunks(paths):
                    query = select(files).where(
                        files.c.member == member, files.c.type == type_, files.c.path.in_(some)
                    )
                    for row in connection.execute(query):
                        found[type_, row.path] = StoredFile(*row)
            return found

        return await self._database.read(work) if wanted else {}

    async def has_folder(self, member: str, type_: str, path: str) -> bool:
        """Whether a file is below the path."""
        below = {"m": member, "t": type_, "first": f"{path}/", "last": f"{path}0"}
        return await self._database.read(
            lambda connection: connection.execute(_BELOW, below).first() is not None
        )

    async def records(self, member: str, type_: str) -> list[StoredFile]:
        """The files of a type, the oldest first."""
        rows = await self._database.read(
            lambda connection: connection.execute(_RECORDS, {"m": member, "t": type_}).all()
        )
        return [StoredFile(*row) for row in rows]

    async def listing(self, member: str, type_: str) -> list[str]:
        """The sorted paths of the files of a type."""

        def work(connection: Connection) -> list[str]:
            return list(connection.execute(_PATHS, {"m": member, "t": type_}).scalars())

        return await self._database.read(work)

    async def next_number(self, member: str, type_: str, subfolder: str, stem: str) -> int:
        """The counter that ComfyUI gives to the next output with this stem, from 1 on."""
        key = {"m": member, "t": type_, "f": subfolder, "s": stem}

        def work(connection: Connection) -> int:
            return (connection.execute(_NUMBER, key).scalar_one_or_none() or 0) + 1

        return await self._database.read(work)

    async def add(
        self,
        member: str,
        records: Sequence[StoredFile],
        counters: Sequence[Counter] = (),
        given: GivenNames | None = None,
    ) -> bool:
        """Write files at free places, and what belongs to them; false if one is taken, and then
        nothing is written."""

        def work(connection: Connection) -> None:
            for record in records:
                adding = _ADD_FILE(connection).execution_options(preserve_rowcount=True)
                if connection.execute(adding, asdict(record)).rowcount != 1:
                    raise _TakenError
            _put_beside(connection, member, counters, given)

        try:
            await self._database.write(work)
        except _TakenError:
            return False
        return True

    async def put(
        self,
        member: str,
        records: Sequence[StoredFile],
        counters: Sequence[Counter] = (),
        given: GivenNames | None = None,
    ) -> None:
        """Write files in place of those that are there, and what belongs to them; all or
        nothing."""

        await self._database.write(
            lambda connection: put_file_names(connection, member, records, counters, given)
        )

    async def rename_on_cloud(self, record: StoredFile, cloud_name: str) -> bool:
        """The account calls the file otherwise now; false if it is another file meanwhile."""
        place = (files.c.member == record.member) & (files.c.type == record.type)
        same = (files.c.path == record.path) & (files.c.cloud_name == record.cloud_name)
        renaming = update(files).where(place, same).values(cloud_name=cloud_name)
        return await self._database.write(
            lambda connection: connection.execute(renaming).rowcount == 1
        )

    async def given(self, member: str, job: str, node: str) -> bytes | None:
        """The names that the outputs of a node were given, as JSON."""

        def work(connection: Connection) -> bytes | None:
            key = {"m": member, "j": job, "n": node}
            return connection.execute(_GIVEN, key).scalar_one_or_none()

        return await self._database.read(work)

    # --- the cloud's names -----------------------------------------------------------------

    async def local_names(self, member: str, cloud_names: Iterable[str]) -> dict[str, str]:
        """The member's newest path of each content, by those of the cloud's names that are known.

        That is what an account calls the member's file, or the same content where it was sent.
        """
        wanted = list(dict.fromkeys(cloud_names))

        def work(connection: Connection) -> dict[str, str]:
            found: dict[str, str] = {}
            for some in _chunks(wanted):
                elsewhere = (
                    select(blobs.c.cloud_name, files.c.path, files.c.modified)
                    .join(files, and_(files.c.member == member, files.c.hash == blobs.c.hash))
                    .where(blobs.c.cloud_name.in_(some), blobs.c.sent)
                    .order_by(files.c.modified)
                )
                direct = (
                    select(files.c.cloud_name, files.c.path, files.c.modified)
                    .where(files.c.member == member, files.c.cloud_name.in_(some))
                    .order_by(files.c.modified)
                )
                for query in (elsewhere, direct):
                    found.update((name, path) for name, path, _ in connection.execute(query))
            return found

        return await self._database.read(work) if wanted else {}

    async def upload_named(self, member: str, cloud_name: str) -> StoredFile | None:
        """The member's newest upload that an account calls so."""
        hashes = select(blobs.c.hash).where(blobs.c.cloud_name == cloud_name, blobs.c.sent)
        query = (
            select(files)
            .where(
                files.c.member == member,
                files.c.cloud_type == "input",
                or_(files.c.cloud_name == cloud_name, files.c.hash.in_(hashes)),
            )
            .order_by((files.c.cloud_name == cloud_name).desc(), files.c.modified.desc())
            .limit(1)
        )
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else StoredFile(*row)

    # --- contents --------------------------------------------------------------------------

    async def put_blob(self, blob: Blob, *, names_are_opaque: bool = False) -> None:
        """An account has, or was sent, a content. `names_are_opaque` notes that the cloud's names
        are not what they seem to be."""

        await self._database.write(
            lambda connection: put_blobs(connection, [blob], names_are_opaque=names_are_opaque)
        )

    async def names_are_opaque(self) -> bool:
        """Whether it was noted that the cloud's names are not hashes."""
        return await self._database.read(
            lambda connection: bool(get_meta(connection, "names_are_opaque"))
        )

    async def hash_of(self, identity: str, cloud_name: str) -> str | None:
        """The hash of what the account calls so, as it was seen last, there or (in records from
        before there could be several accounts) anywhere."""

        def work(connection: Connection) -> str | None:
            for where in (identity, ""):
                key = {"i": where, "n": cloud_name}
                found: str | None = connection.execute(_HASH_OF, key).scalar_one_or_none()
                if found is not None:
                    return found
            return None

        return await self._database.read(work)

    async def sent_as(self, identity: str, hash_: str) -> str | None:
        """The account's name for bytes that it was sent before."""

        def work(connection: Connection) -> str | None:
            return connection.execute(_SENT_AS, {"h": hash_, "i": identity}).scalar_one_or_none()

        return await self._database.read(work)

    async def sent_names(self, hash_: str) -> list[tuple[str, str]]:
        """The identities that were sent these bytes, and what they call them."""
        rows = await self._database.read(
            lambda connection: connection.execute(_NAMES, {"h": hash_}).all()
        )
        return [(identity, cloud_name) for identity, cloud_name in rows]

    async def count(self, member: str | None = None) -> int:
        """How many files there are."""
        query = select(func.count()).select_from(files)
        if member is not None:
            query = query.where(files.c.member == member)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())


class _TakenError(Exception):
    """A place is taken: nothing of the unit is written."""


def put_file_names(
    connection: Connection,
    member: str,
    records: Sequence[StoredFile] = (),
    counters: Sequence[Counter] = (),
    given: GivenNames | None = None,
) -> None:
    """Write files and what belongs to them, in the caller's unit."""
    if records:
        connection.execute(_PUT_FILE(connection), [asdict(record) for record in records])
    _put_beside(connection, member, counters, given)


def put_blobs(
    connection: Connection, known: Sequence[Blob], *, names_are_opaque: bool = False
) -> None:
    """Write contents, in the caller's unit."""
    if known:
        connection.execute(_PUT_BLOB(connection), [asdict(blob) for blob in known])
    if names_are_opaque:
        put_meta(connection, "names_are_opaque", True)


def forget_outputs(
    connection: Connection, member: str, jobs: Sequence[str], *, with_files: bool
) -> None:
    """Forget the names that the outputs of jobs were given, and the files too if asked."""
    connection.execute(delete(outputs).where(outputs.c.member == member, outputs.c.job.in_(jobs)))
    if with_files:
        connection.execute(delete(files).where(files.c.member == member, files.c.job.in_(jobs)))


def _put_beside(
    connection: Connection,
    member: str,
    counters: Sequence[Counter],
    given: GivenNames | None,
) -> None:
    if counters:
        values = [{"member": member, **asdict(counter)} for counter in counters]
        connection.execute(_COUNT(connection), values)
    if given is not None:
        connection.execute(_PUT_GIVEN(connection), {"member": member, **asdict(given)})


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
