"""Names of files, counters, names of outputs, and contents, in each database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from proxy.files.service import _record_of
from proxy.storage import files as module
from proxy.storage.database import Database
from proxy.storage.file_tables import AccountBlob, FileRecord
from proxy.storage.files import FileRepository, FileUnit
from proxy.translate.names import Place

T = TypeVar("T")

HASH = "ab" * 32
NAME = f"{HASH}.png"
PICTURE = FileRecord(
    "anna", "input", "sub/x.png", NAME, "input", HASH, 5, "image/png", 10.5, "main"
)
WHERE = Place("input", "sub/x.png")


class Files:
    """The repository, a call for each unit."""

    def __init__(self, database: Database) -> None:
        self.repository = FileRepository(database)

    async def put(self, *records: FileRecord) -> None:
        await self.repository.write(lambda files: files.put(records))

    async def put_blobs(self, *blobs: AccountBlob, **options: bool) -> None:
        await self.repository.write(lambda files: files.put_blobs(blobs, **options))

    async def ask(self, question: Callable[[FileUnit], T]) -> T:
        return await self.repository.read(question)


@pytest.fixture
def files(database: Database) -> Files:
    return Files(database)


def named(path: str, modified: float = 1.0, **values: Any) -> FileRecord:
    return replace(PICTURE, path=path, modified=modified, **values)


async def test_a_file_comes_back_as_it_was_put(files: Files) -> None:
    await files.put(PICTURE)
    assert await files.ask(lambda unit: unit.get("anna", WHERE)) == PICTURE
    assert await files.ask(lambda unit: unit.get("anna", Place("output", "sub/x.png"))) is None
    assert await files.ask(lambda unit: unit.get("ben", WHERE)) is None
    later = replace(PICTURE, cloud_name="other", hash=None, size=None, job="j")
    await files.put(later)
    assert await files.ask(lambda unit: unit.get("anna", WHERE)) == later


async def test_a_place_is_claimed_by_the_first_alone(files: Files) -> None:
    records = [replace(PICTURE, cloud_name=name) for name in ("a", "b", "c")]
    claimed = await asyncio.gather(
        *(
            files.repository.write(lambda unit, record=record: unit.claim(record))
            for record in records
        )
    )
    assert sorted(claimed) == [False, False, True]
    assert await files.ask(lambda unit: unit.get("anna", WHERE)) == records[claimed.index(True)]


def test_a_record_tells_its_place() -> None:
    assert (PICTURE.subfolder, PICTURE.filename, PICTURE.place) == ("sub", "x.png", WHERE)
    assert (named("x.png").subfolder, named("x.png").filename) == ("", "x.png")


async def test_many_are_found_at_once(files: Files) -> None:
    records = [named(f"{number}.png") for number in range(1200)]
    await files.put(*records)
    wanted = [record.place for record in records] + [Place("temp", "1.png")]
    assert len(await files.ask(lambda unit: unit.get_many("anna", wanted))) == 1200
    assert await files.ask(lambda unit: unit.get_many("anna", [])) == {}


async def test_a_name_is_chosen_and_taken_in_one_unit(files: Files) -> None:
    def choose(unit: FileUnit) -> str:
        number = 0
        while unit.get("anna", Place("input", f"{number}.png")) is not None:
            number += 1
        unit.put([named(f"{number}.png")])
        return f"{number}.png"

    chosen = await asyncio.gather(*(files.repository.write(choose) for _ in range(3)))
    listing = await files.ask(lambda unit: unit.listing("anna", "input"))
    assert list(listing) == sorted(set(chosen))


async def test_folders_are_those_with_files_below(files: Files) -> None:
    await files.put(named("a/b/x.png"), named("ab.png"))
    for type_, path, is_folder in (
        ("input", "", True),
        ("input", "a", True),
        ("input", "a/b", True),
        ("input", "a/b/x.png", False),
        ("input", "ab", False),
        ("output", "a", False),
    ):
        place = Place(type_, path)
        found = await files.ask(lambda unit, place=place: unit.has_folder("anna", place))
        assert found is is_folder, place


@pytest.mark.parametrize(
    ("type_", "path", "is_taken"),
    [
        ("input", "a", True),
        ("input", "a/b", True),
        ("input", "a/b/x.png", True),
        ("input", "ab.png", True),
        ("input", "ab", False),
        ("input", "a/b/x", False),
        ("output", "ab.png", False),
    ],
)
async def test_a_place_is_taken_by_a_file_or_a_folder(
    files: Files, type_: str, path: str, is_taken: bool
) -> None:
    await files.put(named("a/b/x.png"), named("ab.png"))
    assert await files.ask(lambda unit: unit.is_taken("anna", Place(type_, path))) is is_taken
    assert not await files.ask(lambda unit: unit.is_taken("ben", Place(type_, path)))


@pytest.mark.parametrize("page", [1, 2, 1000])
async def test_lists_are_by_age_or_by_path(
    files: Files, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(module, "_RECORDS", module._RECORDS.limit(page))
    monkeypatch.setattr(module, "_LISTING", module._LISTING.limit(page))
    await files.put(named("b", 3), named("Z", 1), named("é", 2), named("a/c", 4))
    records = await files.repository.records("anna", "input")
    assert [record.path for record in records] == ["Z", "é", "b", "a/c"]
    listing = await files.repository.listing("anna", "input")
    assert list(listing) == ["Z", "a/c", "b", "é"]


async def test_counters_grow_with_the_names_and_outlive_them(files: Files) -> None:
    await files.put(*(named(f"s/ComfyUI_{n:05}_.png", type="output") for n in (3, 7, 5)))
    folder = Place("output", "s")
    assert await files.ask(lambda unit: unit.next_number("anna", folder, "ComfyUI")) == 8
    other = Place("output", "")
    assert await files.ask(lambda unit: unit.next_number("anna", other, "ComfyUI")) == 1


async def test_names_of_outputs_are_kept_by_node(files: Files) -> None:
    for given in (b"[1]", b"[2]"):
        await files.repository.write(
            lambda unit, given=given: unit.put_given("anna", "j", "9", given)
        )
    assert await files.ask(lambda unit: unit.given("anna", "j", "9")) == b"[2]"
    assert await files.ask(lambda unit: unit.given("anna", "j", "10")) is None


async def test_the_clouds_names_lead_to_the_newest_file(files: Files) -> None:
    old, new = named("old.png", 1), named("new.png", 2)
    human = named("human.png", 1, type="output", cloud_name="cat.png", cloud_type="output")
    upload = named("up.png", 1, cloud_name="opaque", hash=None)
    await files.put(new, old, named("ben.png", 3, member="ben"), human, upload)
    await files.put_blobs(
        AccountBlob("cloud two", "elsewhere.png", True, HASH, 5, 1),
        AccountBlob("cloud two", "seen.png", False, HASH, 5, 1),
    )
    hashes, others = [NAME], ["elsewhere.png", "seen.png", "cat.png", "opaque", "no"]
    found = await files.ask(lambda unit: unit.local_names("anna", hashes, others))
    assert found == {NAME: "new.png", "elsewhere.png": "new.png", "opaque": "up.png"}
    for name, record in (("elsewhere.png", new), (NAME, new), ("no", None)):
        upload_named = await files.ask(lambda unit, name=name: unit.upload_named("anna", name))
        assert upload_named == record


async def test_contents_are_known_by_account(files: Files) -> None:
    other = "cd" * 32
    await files.put_blobs(
        AccountBlob("one", "x", True, HASH, 5, 1),
        AccountBlob("one", "x", False, other, 5, 2),
        AccountBlob("", "before", True, HASH, 5, 2),
    )
    assert await files.ask(lambda unit: unit.hash_of("one", "x")) == HASH
    assert await files.ask(lambda unit: unit.hash_of("two", "x")) is None
    assert await files.ask(lambda unit: unit.hash_of("two", "before")) == HASH
    assert await files.ask(lambda unit: unit.sent_as("one", HASH)) == "x"
    assert await files.ask(lambda unit: unit.sent_as("one", other)) is None
    assert await files.ask(lambda unit: unit.sent_names(HASH)) == [("one", "x"), ("", "before")]


async def test_a_name_is_reused_by_a_newer_file_of_somebody_else(files: Files) -> None:
    def output(path: str, modified: float, member: str = "anna") -> FileRecord:
        about = {"type": "output", "cloud_name": "cat.png", "cloud_type": "output"}
        return named(path, modified, member=member, hash=None, **about)

    old, own, bens = output("a.png", 1), output("b.png", 2), output("c.png", 3, "ben")
    await files.put(old, own)
    assert not await files.ask(lambda unit: unit.is_reused(old))
    await files.put(bens)
    assert [
        await files.ask(lambda unit, record=record: unit.is_reused(record))
        for record in (old, bens)
    ] == [
        True,
        False,
    ]


async def test_that_names_are_opaque_is_remembered(files: Files) -> None:
    assert not await files.ask(FileUnit.names_are_opaque)
    await files.put_blobs(AccountBlob("one", "x", True, HASH, 5, 1), names_are_opaque=True)
    assert await files.ask(FileUnit.names_are_opaque)


async def test_numbers_that_are_decided_at_once_are_different(files: Files) -> None:
    def give(unit: FileUnit) -> str:
        unit.lock_names("anna")
        number = unit.next_number("anna", Place("output", ""), "x")
        path = f"x_{number:05}_.png"
        unit.put([named(path, type="output")])
        return path

    given = await asyncio.gather(*(files.repository.write(give) for _ in range(20)))
    assert sorted(given) == [f"x_{number:05}_.png" for number in range(1, 21)]


async def test_every_file_without_a_record_gets_one_whatever_lies_beside_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    add, paths = files.repository.add_missing_assets, [f"{number:02}.png" for number in range(10)]
    await files.put(*(named(path) for path in paths))
    assert await add("anna", _record_of) == 10
    await files.put(named("045.png"), named("99.png"), replace(PICTURE, member="ben"))
    assert await add("anna", _record_of) == 2
    assert await add("anna", _record_of) == 0
    assert await add("ben", _record_of) == 1
