"""Outputs that are to be written later: noted once, read in pages, forgotten."""

from __future__ import annotations

import pytest

from proxy.storage.database import Database
from proxy.storage.files import FileRepository
from proxy.storage.missing_outputs import MissingOutput


@pytest.fixture
def files(database: Database) -> FileRepository:
    return FileRepository(database)


async def everything(files: FileRepository) -> list[MissingOutput]:
    return await files.read(lambda unit: unit.missing.page(None, limit=100))


async def test_an_output_that_is_missing_still_keeps_its_time(files: FileRepository) -> None:
    first = MissingOutput("ann", "a.png", 1)
    await files.write(lambda unit: unit.missing.add([first]))
    await files.write(lambda unit: unit.missing.add([MissingOutput("ann", "a.png", 2)]))
    assert await everything(files) == [first]


async def test_pages_follow_each_other(files: FileRepository) -> None:
    outputs = [
        MissingOutput(member, path, 1)
        for member in ("ann", "ben")
        for path in ("a.png", "b\0.png", "ü.png")
    ]
    await files.write(lambda unit: unit.missing.add(reversed(outputs)))
    found: list[MissingOutput] = []
    for _ in range(4):
        after = found[-1] if found else None
        found += await files.read(lambda unit, after=after: unit.missing.page(after, limit=2))
    assert found == outputs


async def test_what_was_written_is_forgotten(files: FileRepository) -> None:
    mine, other = MissingOutput("ann", "a.png", 1), MissingOutput("ben", "a.png", 1)
    await files.write(lambda unit: unit.missing.add([mine, other]))
    await files.write(lambda unit: unit.missing.delete([mine]))
    await files.write(lambda unit: unit.missing.delete([]))
    assert await everything(files) == [other]
