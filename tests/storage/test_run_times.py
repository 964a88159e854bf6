"""What was measured of earlier runs."""

from __future__ import annotations

from proxy.storage.database import Database
from proxy.storage.run_times import RunTimeRepository, RunTimeRow


async def test_rows_are_written_again_and_forgotten_ones_deleted(database: Database) -> None:
    repository = RunTimeRepository(database)
    for at in range(4):
        await repository.put(
            [RunTimeRow("shape", f"s{at}", b"{}", at), RunTimeRow("class", "K", b"1.5", at)],
            forgotten=[("shape", f"s{at - 2}"), ("class", f"s{at - 1}"), ("job", "K")],
        )
    assert await repository.load() == [
        RunTimeRow("shape", "s2", b"{}", 2),
        RunTimeRow("class", "K", b"1.5", 3),
        RunTimeRow("shape", "s3", b"{}", 3),
    ]


async def test_names_may_have_any_characters(database: Database) -> None:
    repository = RunTimeRepository(database)
    row = RunTimeRow("class", "Näme\x00\ud800", b"1.0", 1)
    await repository.put([row])
    assert await repository.load() == [row]
    await repository.put([], forgotten=[(row.kind, row.name)])
    assert await repository.load() == []
