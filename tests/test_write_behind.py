"""What is written behind: nothing lost, nothing twice, and nothing left at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.storage.database import StorageError
from proxy.write_behind import WriteBehind


class Storage:
    """Keeps what is written, by key; refuses while `full`, and takes as long as it is `held`."""

    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self.writes = 0
        self.full = False
        self.begun, self.held = asyncio.Event(), asyncio.Event()
        self.held.set()

    async def write(self, entries: Mapping[str, list[int]]) -> None:
        self.begun.set()
        await self.held.wait()
        if self.full:
            raise StorageError("disk full")
        self.writes += 1
        for key, numbers in entries.items():
            self.kept.setdefault(key, []).extend(numbers)


def behind(storage: Storage, limit: int | None = None) -> WriteBehind[str, list[int]]:
    return WriteBehind(
        "numbers",
        storage.write,
        gather=0.0,
        again=0.0,
        merge=lambda some, more: some + more,
        limit=limit,
    )


ACTIONS = st.sampled_from(
    ["add a", "add b", "add c", "flush", "hold", "go on", "fill", "empty", "leave", "turn"]
)


@given(st.lists(ACTIONS, max_size=40), st.booleans())
def test_whatever_happens_everything_is_written_once_and_in_order(
    actions: list[str], runs: bool
) -> None:
    asyncio.run(everything_is_written_once(actions, runs=runs))


async def everything_is_written_once(actions: list[str], *, runs: bool) -> None:
    storage, added = Storage(), dict[str, list[int]]()
    writes = behind(storage)
    tasks = [asyncio.create_task(writes.run())] if runs else []
    for number, action in enumerate(actions):
        match action.split():
            case ["add", key]:
                writes.add(key, [number])
                added.setdefault(key, []).append(number)
            case ["flush"]:
                tasks.append(asyncio.create_task(writes.flush()))
            case ["hold"]:
                storage.held.clear()
            case ["go", "on"]:
                storage.held.set()
            case ["fill" | "empty"]:
                storage.full = action == "fill"
            case ["leave"] if tasks:
                tasks[-1].cancel()
            case ["turn"]:
                await asyncio.sleep(0)
    storage.held.set()
    storage.full = False
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, StorageError):
            await task
    await writes.close()
    assert storage.kept == added
    assert len(writes) == 0


async def test_what_is_added_in_a_moment_is_one_write() -> None:
    storage = Storage()
    writes = behind(storage)
    running = asyncio.create_task(writes.run())
    for number in range(5):
        writes.add("a", [number])
    await storage.begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert (storage.writes, storage.kept) == (1, {"a": [0, 1, 2, 3, 4]})


async def test_a_flush_waits_for_the_write_under_way() -> None:
    storage = Storage()
    storage.held.clear()
    writes = behind(storage)
    writes.add("a", [1])
    first = asyncio.create_task(writes.flush())
    await storage.begun.wait()
    second = asyncio.create_task(writes.flush())
    await asyncio.sleep(0)
    assert not second.done()
    storage.held.set()
    await asyncio.gather(first, second)
    assert storage.writes == 1


async def test_what_is_dropped_during_a_write_that_fails_is_not_written_again() -> None:
    storage = Storage()
    storage.held.clear()
    storage.full = True
    writes = behind(storage)
    for key in "abc":
        writes.add(key, [1])
    flushing = asyncio.create_task(writes.flush())
    await storage.begun.wait()
    writes.drop("a")
    writes.drop("b")
    writes.add("b", [2])
    storage.held.set()
    with pytest.raises(StorageError):
        await flushing
    assert ["a" in writes, "b" in writes, "c" in writes] == [False, True, True]
    storage.full = False
    await writes.flush()
    assert storage.kept == {"b": [2], "c": [1]}


async def test_no_more_wait_than_the_limit_with_those_of_a_write_under_way() -> None:
    storage = Storage()
    storage.held.clear()
    writes = behind(storage, limit=2)
    assert [writes.add(key, [1]) for key in "aba"] == [True, True, True]
    flushing = asyncio.create_task(writes.flush())
    await storage.begun.wait()
    assert not writes.add("c", [1])
    storage.held.set()
    await flushing
    assert writes.add("c", [1])


async def test_a_storage_that_refuses_is_logged_once_until_it_works_again() -> None:
    storage = Storage()
    storage.full = True
    writes = behind(storage)
    with capture_logs() as lines:
        running = asyncio.create_task(writes.run())
        writes.add("a", [1])
        for _ in range(30):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
    assert [(line["event"], line["what"]) for line in lines] == [("write_failed", "numbers")]


async def test_what_cannot_be_written_at_the_end_is_logged() -> None:
    storage = Storage()
    storage.full = True
    writes = behind(storage)
    writes.add("a", [1])
    with capture_logs() as lines:
        await writes.close()
    assert [(line["event"], line["entries"]) for line in lines] == [("entries_lost", 1)]
