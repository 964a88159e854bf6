"""What was measured of earlier runs, in bounds."""

from __future__ import annotations

from proxy.storage.database import Database
from proxy.storage.run_times import RunTimeRepository, RunTimeRow


async def test_the_newest_of_each_kind_are_kept(database: Database) -> None:
    repository = RunTimeRepository(database)
    for at in range(4):
        await repository.put(
            [RunTimeRow("shape", f"s{at}", b"{}", at), RunTimeRow("class", "K", b"1.5", at)],
            keep={"shape": 2, "class": 5},
        )
    assert await repository.load() == [
        RunTimeRow("shape", "s2", b"{}", 2),
        RunTimeRow("class", "K", b"1.5", 3),
        RunTimeRow("shape", "s3", b"{}", 3),
    ]


async def test_names_may_have_any_characters(database: Database) -> None:
    repository = RunTimeRepository(database)
    row = RunTimeRow("class", "Näme\x00\ud800", b"1.0", 1)
    await repository.put([row], keep={})
    assert await repository.load() == [row]
