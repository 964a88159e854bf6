"""Names of files, counters, names of outputs, and contents, in each database."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.storage.database import Database
from proxy.storage.files import Blob, Counter, FileRepository, GivenNames, StoredFile

HASH = "ab" * 32
PICTURE = StoredFile(
    "anna", "input", "sub/x.png", HASH + ".png", "input", HASH, 5, "image/png", 10.5, "main"
)


@pytest.fixture
def files(database: Database) -> FileRepository:
    return FileRepository(database)


def named(path: str, modified: float = 1.0, **values: object) -> StoredFile:
    return replace(PICTURE, path=path, modified=modified, **values)  # type: ignore[arg-type]


async def test_a_file_comes_back_as_it_was_put(files: FileRepository) -> None:
    await files.put("anna", [PICTURE])
    assert await files.get("anna", "input", "sub/x.png") == PICTURE
    assert await files.get("anna", "output", "sub/x.png") is None
    assert await files.get("ben", "input", "sub/x.png") is None
    later = replace(PICTURE, cloud_name="other", hash=None, size=None, job="j")
    await files.put("anna", [later])
    assert await files.get("anna", "input", "sub/x.png") == later


async def test_many_are_found_at_once(files: FileRepository) -> None:
    records = [named(f"{number}.png") for number in range(1200)]
    await files.put("anna", records)
    wanted = [("input", record.path) for record in records] + [("temp", "1.png")]
    assert len(await files.get_many("anna", wanted)) == 1200
    assert await files.get_many("anna", []) == {}
    assert await files.count() == await files.count("anna") == 1200


async def test_a_free_place_is_taken_once(files: FileRepository) -> None:
    given = GivenNames("job", "9", b"[]")
    results = await asyncio.gather(
        *(files.add("anna", [replace(PICTURE, size=size)], given=given) for size in range(10))
    )
    assert results.count(True) == 1
    assert not await files.add("anna", [named("new.png"), PICTURE], [Counter("input", "", "n", 9)])
    assert await files.get("anna", "input", "new.png") is None
    assert await files.next_number("anna", "input", "", "n") == 1


async def test_folders_are_those_with_files_below(files: FileRepository) -> None:
    await files.put("anna", [named("a/b/x.png"), named("ab.png")])
    assert await files.has_folder("anna", "input", "a")
    assert await files.has_folder("anna", "input", "a/b")
    assert not await files.has_folder("anna", "input", "a/b/x.png")
    assert not await files.has_folder("anna", "input", "ab")
    assert not await files.has_folder("anna", "output", "a")


async def test_lists_are_by_age_or_by_path(files: FileRepository) -> None:
    await files.put("anna", [named("b", 3), named("Z", 1), named("é", 2), named("a/c", 4)])
    assert [one.path for one in await files.records("anna", "input")] == ["Z", "é", "b", "a/c"]
    assert await files.listing("anna", "input") == ["Z", "a/c", "b", "é"]


async def test_counters_only_grow(files: FileRepository) -> None:
    for number in (3, 7, 5):
        await files.put("anna", [], [Counter("output", "s", "ComfyUI", number)])
    assert await files.next_number("anna", "output", "s", "ComfyUI") == 8
    assert await files.next_number("anna", "output", "", "ComfyUI") == 1


async def test_a_file_is_renamed_on_the_cloud_if_it_is_the_same(files: FileRepository) -> None:
    await files.put("anna", [PICTURE])
    assert await files.rename_on_cloud(PICTURE, "new")
    assert not await files.rename_on_cloud(PICTURE, "newer")
    found = await files.get("anna", "input", "sub/x.png")
    assert found is not None
    assert found.cloud_name == "new"


async def test_names_of_outputs_are_kept_by_node(files: FileRepository) -> None:
    await files.put("anna", [], given=GivenNames("j", "9", b"[1]"))
    await files.put("anna", [], given=GivenNames("j", "9", b"[2]"))
    assert await files.given("anna", "j", "9") == b"[2]"
    assert await files.given("anna", "j", "10") is None


async def test_the_clouds_names_lead_to_the_newest_file(files: FileRepository) -> None:
    old, new = named("old.png", 1), named("new.png", 2)
    await files.put("anna", [new, old, named("ben.png", 3, member="ben")])
    await files.put_blob(Blob("cloud two", "elsewhere.png", True, HASH, 5, 1))
    await files.put_blob(Blob("cloud two", "seen.png", False, HASH, 5, 1))
    found = await files.local_names("anna", [HASH + ".png", "elsewhere.png", "seen.png", "no"])
    assert found == {HASH + ".png": "new.png", "elsewhere.png": "new.png"}
    assert await files.upload_named("anna", "elsewhere.png") == new
    assert await files.upload_named("anna", HASH + ".png") == new
    assert await files.upload_named("anna", "no") is None


async def test_contents_are_known_by_account(files: FileRepository) -> None:
    await files.put_blob(Blob("one", "x", True, HASH, 5, 1))
    await files.put_blob(Blob("one", "x", False, "cd" * 32, 5, 2))
    await files.put_blob(Blob("", "before", False, HASH, 5, 1))
    assert await files.hash_of("one", "x") == "cd" * 32
    assert await files.hash_of("two", "x") is None
    assert await files.hash_of("two", "before") == HASH
    assert await files.sent_as("one", HASH) == "x"
    assert await files.sent_as("one", "cd" * 32) is None
    assert await files.sent_names(HASH) == [("one", "x")]


async def test_that_names_are_opaque_is_remembered(files: FileRepository) -> None:
    assert not await files.names_are_opaque()
    await files.put_blob(Blob("one", "x", True, HASH, 5, 1), names_are_opaque=True)
    assert await files.names_are_opaque()
