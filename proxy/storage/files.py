"""Local names of files, the names that outputs were given, and which account has which content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TypeVar

from msgspec.structs import asdict
from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    literal,
    or_,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.sql.elements import Tuple

from proxy.storage.assets import AssetUnit, forget_assets
from proxy.storage.database import Database
from proxy.storage.file_tables import (
    AccountBlob,
    FileRecord,
    assets,
    blobs,
    file_counters,
    files,
    outputs,
)
from proxy.storage.missing_outputs import MissingOutputs
from proxy.storage.statements import CHUNK, Upsert, chunks, get_meta, put_meta, run, run_many
from proxy.storage.tables import AnyText
from proxy.translate import codec
from proxy.translate.assets import Asset
from proxy.translate.names import Place, counters

T = TypeVar("T")

#: Stands for a node among the names of a job: those of its inputs.
_WRITTEN = ""

#: Maximum number of files that are read at once.
PAGE = 1000

_PUT_FILE = Upsert(files)
_CLAIM = Upsert(files, how="keep")
_COUNT = Upsert(file_counters, how="highest")
_PUT_GIVEN = Upsert(outputs)
_PUT_BLOB = Upsert(blobs)

_OF_TYPE = select(files).where(files.c.member == bindparam("m"), files.c.type == bindparam("t"))
_GET = _OF_TYPE.where(files.c.path == bindparam("p"))
_RECORDS = (
    _OF_TYPE.where(files.c.path > bindparam("after", type_=files.c.path.type))
    .order_by(files.c.path)
    .limit(PAGE)
)
_LISTING = _RECORDS.with_only_columns(files.c.path, files.c.size)
_IS_BELOW = and_(
    files.c.path >= bindparam("first", type_=files.c.path.type),
    files.c.path < bindparam("last", type_=files.c.path.type),
)
_BELOW = _OF_TYPE.with_only_columns(literal(1)).where(_IS_BELOW).limit(1)
# Not one condition with `or`, for which SQLite reads all files of the type.
_TAKEN = union_all(_GET.with_only_columns(literal(1)), select(_BELOW.subquery()))
_LOCK_NAMES = text("SELECT pg_advisory_xact_lock(hashtextextended('names of ' || :m, 0))")
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
    .where(blobs.c.identity == bindparam("i"), blobs.c.cloud_name == bindparam("n"), blobs.c.sent)
    .order_by(blobs.c.seen_at.desc())
    .limit(1)
)
_REUSED = (
    select(literal(1))
    .where(files.c.account == bindparam("a"), files.c.cloud_name == bindparam("n"))
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
_ELSEWHERE = (
    select(blobs.c.cloud_name, files.c.path)
    .join(files, and_(files.c.member == bindparam("m"), files.c.hash == blobs.c.hash))
    .where(blobs.c.cloud_name.in_(bindparam("names", expanding=True)), blobs.c.sent)
    .order_by(files.c.modified)
)
_DIRECT = (
    select(files.c.cloud_name, files.c.path)
    .where(
        files.c.member == bindparam("m"), files.c.cloud_name.in_(bindparam("names", expanding=True))
    )
    .order_by(files.c.modified)
)
_UPLOADED = _DIRECT.where(files.c.cloud_type == "input")


class FileUnit:
    """The files within one unit of work, so that decisions that depend on stored files stay true.

    `assets` are the records of them, `missing` those that are not in the output directory yet.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self.assets = AssetUnit(connection)
        self.missing = MissingOutputs(connection)

    def lock_names(self, member: str) -> None:
        """Prevent other units from deciding on names of the member until this one has ended. Units
        on SQLite never run at once."""
        if self._connection.dialect.name == "postgresql":
            self._execute(_LOCK_NAMES, {"m": member})

    def get(self, member: str, place: Place) -> FileRecord | None:
        """Return the file at a place."""
        key = {"m": member, "t": place.type, "p": place.path}
        row = self._execute(_GET, key).one_or_none()
        return None if row is None else FileRecord(*row)

    def get_many(self, member: str, places: Iterable[Place]) -> dict[Place, FileRecord]:
        """Return the files that exist at these places."""
        wanted: dict[str, list[str]] = {}
        for place in places:
            wanted.setdefault(place.type, []).append(place.path)
        found = {}
        for type_, paths in wanted.items():
            for some in chunks(paths):
                query = _OF_TYPE.where(files.c.path.in_(some))
                for row in self._execute(query, {"m": member, "t": type_}):
                    found[Place(type_, row.path)] = FileRecord(*row)
        return found

    def of_hashes(self, member: str, hashes: Mapping[Place, str]) -> dict[Place, FileRecord]:
        """Return a file for each content that the member has, not one of `temp`."""
        found = {}
        for place, hash_ in hashes.items():
            asset = self.assets.by_hash(member, hash_)
            file = None if asset is None else self.get(member, asset.place)
            if file is not None:
                found[place] = file
        return found

    def has_folder(self, member: str, place: Place) -> bool:
        """Return whether a place is a folder: the root of its type, or one that holds a file."""
        if not place.path:
            return True
        key = {"m": member, "t": place.type, **_below(place)}
        return run(self._connection, _BELOW, key).fetchone() is not None

    def is_taken(self, member: str, place: Place) -> bool:
        """Return whether a place is a file, or a folder that holds one."""
        key = {"m": member, "t": place.type, "p": place.path, **_below(place)}
        return run(self._connection, _TAKEN, key).fetchone() is not None

    def records(self, member: str, type_: str, after: str = "") -> list[FileRecord]:
        """Return the files of a type by path: the first `PAGE` after a path."""
        rows = self._execute(_RECORDS, {"m": member, "t": type_, "after": after})
        return [FileRecord(*row) for row in rows]

    def listing(self, member: str, type_: str, after: str = "") -> dict[str, int | None]:
        """Return the sizes of files of a type by path, as `records`."""
        rows = self._execute(_LISTING, {"m": member, "t": type_, "after": after})
        return {row.path: row.size for row in rows}

    def next_number(self, member: str, folder: Place, stem: str) -> int:
        """Return the counter that ComfyUI gives to the next output with this stem, starting at
        1."""
        key = {"m": member, "t": folder.type, "f": folder.path, "s": stem}
        row = run(self._connection, _NUMBER, key).fetchone()
        return 1 if row is None else int(row[0]) + 1

    def put(self, records: Sequence[FileRecord]) -> None:
        """Write files instead of those that are there, and what their names use up."""
        if records:
            run_many(self._connection, _PUT_FILE, [asdict(record) for record in records])
            self._use_up(records)
            replaced: dict[tuple[str, str], dict[str, tuple[str | None, str | None]]] = {}
            for record in records:
                replaced.setdefault((record.member, record.type), {})[record.path] = (
                    record.hash,
                    record.job,
                )
            for (member, type_), contents in replaced.items():
                self.assets.replaced(member, type_, contents)

    def claim(self, record: FileRecord) -> bool:
        """Write a file unless its place is taken; returns whether it was written."""
        claimed: bool = run(self._connection, _CLAIM, asdict(record)).rowcount == 1
        if claimed:
            self._use_up([record])
        return claimed

    def _use_up(self, records: Sequence[FileRecord]) -> None:
        used = [
            {
                "member": record.member,
                "type": record.type,
                "subfolder": record.subfolder,
                "stem": stem,
                "number": number,
            }
            for record in records
            for stem, number in counters(record.filename)
        ]
        run_many(self._connection, _COUNT, used)

    def given(self, member: str, job: str, node: str) -> bytes | None:
        """Return the names that the outputs of a node were given, as JSON."""
        key = {"m": member, "j": job, "n": node}
        row = run(self._connection, _GIVEN, key).fetchone()
        return None if row is None else row[0]

    def put_given(self, member: str, job: str, node: str, given: bytes) -> None:
        """Write the names that the outputs of a node were given, as JSON."""
        values = {"member": member, "job": job, "node": node, "given": given}
        run(self._connection, _PUT_GIVEN, values)

    def written_names(self, member: str, job: str) -> dict[str, str] | None:
        """Return what the graph of a job called the files that it was sent with, by the cloud's
        names, if it had any."""
        found = self.given(member, job, _WRITTEN)
        names = None if found is None else codec.loads(found)
        return names if isinstance(names, dict) else None

    def put_written_names(self, member: str, job: str, names: Mapping[str, str]) -> None:
        """Add to what the graph of a job calls its files."""
        known = self.written_names(member, job) or {}
        self.put_given(member, job, _WRITTEN, codec.dump_bytes({**known, **names}))

    def local_names(
        self, member: str, hashes: Iterable[str], others: Iterable[str] = ()
    ) -> dict[str, str]:
        """Return the member's newest path of each content, by the cloud's names that are known.

        That is what an account calls the member's file, or the same content where it was sent.
        `hashes` are names that look like one; `others` count for uploads alone.
        """
        found: dict[str, str] = {}
        for names, any_ in ((list(hashes), True), (list(others), False)):
            for some in chunks(names):
                for query in (_ELSEWHERE, _DIRECT if any_ else _UPLOADED):
                    rows = self._execute(query, {"m": member, "names": some})
                    found.update((name, path) for name, path in rows)
        return found

    def upload_named(self, member: str, cloud_name: str) -> FileRecord | None:
        """Return the member's newest upload that has this name in an account."""
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
        row = self._execute(query).one_or_none()
        return None if row is None else FileRecord(*row)

    def put_blobs(self, known: Sequence[AccountBlob], *, names_are_opaque: bool = False) -> None:
        """Note that accounts have, or were sent, contents. `names_are_opaque` notes that the
        cloud's names are not hashes, although they look like hashes."""
        run_many(self._connection, _PUT_BLOB, [asdict(blob) for blob in known])
        if names_are_opaque:
            put_meta(self._connection, "names_are_opaque", True)

    def names_are_opaque(self) -> bool:
        """Return whether it was noted that the cloud's names are not hashes."""
        return bool(get_meta(self._connection, "names_are_opaque"))

    def hash_of(self, identity: str, cloud_name: str) -> str | None:
        """Return the hash of the upload that has this name in the account or (in records that name
        no account) anywhere."""
        for where in (identity, ""):
            key = {"i": where, "n": cloud_name}
            found = self._execute(_HASH_OF, key).scalar_one_or_none()
            if found is not None:
                return str(found)
        return None

    def is_reused(self, record: FileRecord) -> bool:
        """Return whether another member has a newer file with the same name in the account."""
        query = _REUSED.where(files.c.member != record.member, files.c.modified > record.modified)
        key = {"a": record.account, "n": record.cloud_name}
        return self._execute(query, key).first() is not None

    def sent_as(self, identity: str, hash_: str) -> str | None:
        """Return the account's name for bytes that it was sent before."""
        key = {"h": hash_, "i": identity}
        return self._execute(_SENT_AS, key).scalar_one_or_none()

    def sent_names(self, hash_: str) -> list[tuple[str, str]]:
        """Return the identities that were sent these bytes, and their names for them."""
        return [(identity, name) for identity, name in self._execute(_NAMES, {"h": hash_})]


def _below(place: Place) -> dict[str, str]:
    """Return the bounds of the paths below a place."""
    return {"first": f"{place.path}/", "last": f"{place.path}0"}


class FileRepository:
    """The files of all members, in units of work. Everything raises `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, work: Callable[[FileUnit], T]) -> T:
        """Run a unit that only reads."""
        return await self._database.read(lambda connection: work(FileUnit(connection)))

    async def write(self, work: Callable[[FileUnit], T]) -> T:
        """Run a unit that writes; what it raises is raised here."""
        return await self._database.write(lambda connection: work(FileUnit(connection)))

    async def learn(self, contents: Sequence[tuple[str, Place, str, int]]) -> None:
        """Note hash and size of the contents at places of members, in several units."""
        if not contents:
            return

        def part(connection: Connection, index: int) -> int | None:
            AssetUnit(connection).learn(*contents[index])
            return index + 1 if index + 1 < len(contents) else None

        await self._database.write_in_slices(part, 0)

    async def records(self, member: str, type_: str) -> list[FileRecord]:
        """Return the files of a type, the oldest first. Those that are added or removed while pages
        of them are read may be there or not."""
        found = page = await self.read(lambda files: files.records(member, type_))
        while len(page) == PAGE:
            after = page[-1].path
            page = await self.read(
                partial(FileUnit.records, member=member, type_=type_, after=after)
            )
            found += page
        return sorted(found, key=attrgetter("modified", "path"))

    async def listing(self, member: str, type_: str) -> dict[str, int | None]:
        """Return the sizes of the files of a type by path, in the order of their paths, read as
        `records`."""
        found = page = await self.read(lambda files: files.listing(member, type_))
        while len(page) == PAGE:
            after = next(reversed(page))
            page = await self.read(
                partial(FileUnit.listing, member=member, type_=type_, after=after)
            )
            found = {**found, **page}
        return found

    async def add_missing_assets(self, member: str, make: Callable[[FileRecord], Asset]) -> int:
        """Add the assets of a member's files that have none; return their number."""
        count, last = 0, None
        while True:
            found, last = await self._database.write(
                partial(_add_missing_assets, member=member, last=last, make=make)
            )
            count += found
            if last is None:
                return count


def _add_missing_assets(
    connection: Connection,
    member: str,
    last: tuple[str, str] | None,
    make: Callable[[FileRecord], Asset],
) -> tuple[int, tuple[str, str] | None]:
    """Add the missing assets of the next files after `last`.

    Returns how many were added, and the type and path of the last file, `None` after the end.
    """
    query = select(files).where(files.c.member == member)
    query = query.order_by(files.c.type, files.c.path).limit(CHUNK)
    if last is not None:
        query = query.where(tuple_(files.c.type, files.c.path) > _literal(last))
    some = {(row.type, row.path): FileRecord(*row) for row in connection.execute(query)}
    if not some:
        return 0, None
    first, final = next(iter(some)), next(reversed(some))
    named = tuple_(assets.c.type, assets.c.path)
    known = connection.execute(
        select(assets.c.type, assets.c.path).where(
            assets.c.member == member, named >= _literal(first), named <= _literal(final)
        )
    )
    recorded = {tuple(row) for row in known}
    new = [make(record) for name, record in some.items() if name not in recorded]
    AssetUnit(connection).add_many(new)
    return len(new), final


def _literal(name: tuple[str, str]) -> Tuple:
    return tuple_(*(literal(part, AnyText) for part in name))


def forget_outputs(
    connection: Connection, member: str, jobs: Sequence[str], *, with_files: bool
) -> None:
    """Forget the names that the outputs of jobs were given, and if asked the files with their
    assets, too."""
    connection.execute(delete(outputs).where(outputs.c.member == member, outputs.c.job.in_(jobs)))
    if with_files:
        forget_assets(connection, member, jobs)
        connection.execute(delete(files).where(files.c.member == member, files.c.job.in_(jobs)))
