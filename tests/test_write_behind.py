"""What is written behind: nothing lost, nothing twice, and nothing left at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.storage.database import OutcomeUnknownError, StorageError, ValueRefusedError
from proxy.storage.leases import Batch
from proxy.storage.write_behind import WriteBehind


class Storage:
    """Keeps what is written, by key, of each batch once; refuses while `full`, takes as long as it
    is `held`, and writes without an answer while it `is_mute`."""

    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self.writes = 0
        self.full = self.is_mute = False
        #: The keys that it never takes.
        self.bad = set[str]()
        self.batches: list[tuple[int, dict[str, list[int]]]] = []
        self.last = 0
        self.begun, self.held = asyncio.Event(), asyncio.Event()
        self.held.set()

    async def write(self, entries: Mapping[str, list[int]], batch: Batch) -> None:
        self.begun.set()
        await self.held.wait()
        if self.full:
            raise StorageError("disk full")
        if self.bad & entries.keys():
            raise ValueRefusedError("too large")
        self.writes += 1
        self.batches.append((batch.number, dict(entries)))
        if batch.number > self.last:
            for key, numbers in entries.items():
                self.kept.setdefault(key, []).extend(numbers)
        self.last = batch.number
        if self.is_mute:
            raise OutcomeUnknownError("the connection was lost during a write")


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
    [
        *("add a", "add b", "add c", "flush", "hold", "go on", "leave", "turn"),
        *("fill", "empty", "mute", "speak"),
    ]
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
            case ["mute" | "speak"]:
                storage.is_mute = action == "mute"
            case ["leave"] if tasks:
                tasks[-1].cancel()
            case ["turn"]:
                await asyncio.sleep(0)
    storage.held.set()
    storage.full = storage.is_mute = False
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, StorageError):
            await task
    await writes.close()
    assert storage.kept == added
    assert len(writes) == 0


async def test_what_the_storage_never_takes_is_given_up_alone() -> None:
    storage, refused = Storage(), list[list[int]]()
    storage.bad = {"c", "f"}
    writes = WriteBehind[str, list[int]](
        "numbers", storage.write, gather=0.0, again=0.0, refused=refused.append
    )
    for number, key in enumerate("abcdefgh"):
        writes.add(key, [number])
    with capture_logs() as logs:
        await writes.flush()
    assert storage.kept == {"a": [0], "b": [1], "d": [3], "e": [4], "g": [6], "h": [7]}
    assert list(storage.kept) == list("abdegh")
    assert (refused, len(writes)) == ([[2], [5]], 0)
    assert [line["event"] for line in logs] == ["entry_refused"] * 2


async def test_a_batch_of_unknown_outcome_that_is_refused_then_is_taken_apart() -> None:
    storage = Storage()
    writes = behind(storage)
    for key in "ab":
        writes.add(key, [1])
    storage.is_mute = True
    with suppress(OutcomeUnknownError):
        await writes.flush()
    storage.kept.clear()  # it was not written
    storage.is_mute, storage.bad = False, {"b"}
    await writes.flush()
    assert (storage.kept, len(writes)) == ({"a": [1]}, 0)


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


async def test_a_batch_that_may_be_written_is_written_again_before_any_other() -> None:
    storage = Storage()
    storage.is_mute = True
    writes = behind(storage)
    writes.add("a", [1])
    with pytest.raises(OutcomeUnknownError):
        await writes.flush()
    writes.add("a", [2])
    storage.full = True
    with pytest.raises(StorageError, match="disk full"):
        await writes.flush()
    storage.full = storage.is_mute = False
    await writes.flush()
    assert storage.batches == [(1, {"a": [1]}), (1, {"a": [1]}), (2, {"a": [2]})]
    assert storage.kept == {"a": [1, 2]}


async def test_what_is_dropped_of_a_batch_that_may_be_written_is_not_written_again() -> None:
    storage = Storage()
    storage.is_mute = True
    writes = behind(storage)
    writes.add("a", [1])
    with pytest.raises(OutcomeUnknownError):
        await writes.flush()
    writes.drop("a")
    storage.is_mute = False
    await writes.flush()
    assert len(writes) == 0
    assert [entries for _, entries in storage.batches] == [{"a": [1]}]


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
