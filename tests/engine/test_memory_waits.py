"""Whose jobs wait for memory, and until when."""

from __future__ import annotations

import pytest
from stopped_clock import StoppedClock

from proxy.engine.memory_waits import MemoryWaits


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(100.0)


@pytest.fixture
def waits(clock: StoppedClock) -> MemoryWaits:
    return MemoryWaits(clock.monotonic)


def test_jobs_wait_until_one_of_their_member_holds_nothing(waits: MemoryWaits) -> None:
    assert not waits.freed("anna")
    waits.refused("anna")
    assert (waits.waits("anna"), waits.waits("ben")) == (True, False)
    assert waits.freed("anna")
    assert not waits.waits("anna")


def test_a_job_that_asks_again_and_again_does_so_more_seldom(
    waits: MemoryWaits, clock: StoppedClock
) -> None:
    delays = []
    for _ in range(7):
        waits.refused("anna")
        (until,) = waits.ends()
        delays.append(until - clock.at)
        clock.at = until
        assert not waits.waits("anna")
    assert delays == [2, 4, 8, 16, 32, 60, 60]


def test_one_job_asks_and_the_others_stay_until_it_has_room(waits: MemoryWaits) -> None:
    waits.refused("anna")
    waits.freed("anna")
    waits.asks("anna")
    waits.asks("ben")
    assert (waits.waits("anna"), waits.waits("ben")) == (True, False)
    assert waits.has_room("anna")
    assert not waits.waits("anna")
    assert not waits.has_room("anna")
