"""Tests of work that is done once for all who ask for it."""

from __future__ import annotations

import asyncio

import pytest
from waiting import until

from proxy.runtime.shared_work import NextReading, SharedWork


class Work:
    """Work that ends when it may, and counts how often it has begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        begun = self.begun
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return begun


async def test_who_asks_at_the_same_time_gets_the_same_result() -> None:
    shared, work = SharedWork[str, int](), Work()
    asking = [asyncio.create_task(shared.get("key", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*asking) == [1, 1, 1]


async def test_other_keys_are_other_work() -> None:
    shared, work = SharedWork[str, int](), Work()
    work.may_end.set()
    assert await asyncio.gather(shared.get("a", work), shared.get("b", work)) == [1, 2]


@pytest.mark.parametrize(("kept", "begun"), [(0, [1, 2]), (1, [1, 1])])
async def test_a_result_is_kept_where_there_is_room(kept: int, begun: list[int]) -> None:
    shared, work = SharedWork[str, int](kept), Work()
    work.may_end.set()
    assert [await shared.get("key", work) for _ in range(2)] == begun


async def test_the_result_that_was_asked_for_longest_ago_gives_way() -> None:
    shared, work = SharedWork[str, int](2), Work()
    work.may_end.set()
    assert [await shared.get(key, work) for key in "abacab"] == [1, 2, 1, 3, 1, 4]


async def test_what_fails_fails_for_all_and_is_tried_again() -> None:
    shared, work = SharedWork[str, int](1), Work()
    work.error = ValueError("a bug")
    asking = [asyncio.create_task(shared.get("key", work)) for _ in range(2)]
    await asyncio.sleep(0)
    work.may_end.set()
    for task in asking:
        with pytest.raises(ValueError, match="a bug"):
            await task
    work.error = None
    assert await shared.get("key", work) == 2


async def test_who_no_longer_waits_ends_nothing() -> None:
    shared, work = SharedWork[str, int](), Work()
    leaving, staying = (asyncio.create_task(shared.get("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    work.may_end.set()
    assert await staying == 1
    assert leaving.cancelled()


async def test_closing_cancels_what_is_under_way() -> None:
    shared, work = SharedWork[str, int](), Work()
    asking = asyncio.create_task(shared.get("key", work))
    await asyncio.sleep(0)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_who_asks_during_a_reading_shares_the_next() -> None:
    readings, work = NextReading[str, int](), Work()
    first = asyncio.create_task(readings.get("key", work))
    await until(lambda: work.begun)
    others = [asyncio.create_task(readings.get("key", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(first, *others) == [1, 2, 2, 2]


async def test_a_reading_that_fails_fails_for_all_who_share_it() -> None:
    readings, work = NextReading[str, int](), Work()
    work.error = ValueError("a bug")
    work.may_end.set()
    asking = (readings.get("key", work) for _ in range(2))
    assert await asyncio.gather(*asking, return_exceptions=True) == [work.error] * 2
    work.error = None
    assert await readings.get("key", work) == 2


async def test_closing_cancels_the_readings_under_way_and_the_next() -> None:
    readings, work = NextReading[str, int](), Work()
    first = asyncio.create_task(readings.get("key", work))
    await until(lambda: work.begun)
    second = asyncio.create_task(readings.get("key", work))
    await asyncio.sleep(0)
    await readings.close()
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
