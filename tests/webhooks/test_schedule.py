"""Retries grow, spread, and end after a day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.cloud.resilience import MAX_RETRY_AFTER
from proxy.webhooks.delivery import RetrySchedule

SCHEDULE = RetrySchedule()

DURATIONS = st.floats(0.0, SCHEDULE.timeout)


@given(st.lists(st.tuples(DURATIONS, st.none() | st.floats(0, MAX_RETRY_AFTER)), min_size=60))
def test_attempts_end_within_a_day_and_are_neither_many_nor_few(
    attempts: list[tuple[float, float | None]],
) -> None:
    """Whatever each attempt takes and whatever its answer asks for."""
    age, count = 0.0, 0
    for duration, asked in attempts:
        age, count = age + duration, count + 1
        wait = SCHEDULE.wait(count, age, asked)
        if wait is None:
            break
        bound = SCHEDULE.backoff.whole(count)
        assert max(bound / 2, asked or 0.0) <= wait <= max(bound, asked or 0.0)
        age += wait
        assert age <= SCHEDULE.max_age
    else:
        raise AssertionError("it is attempted for ever")
    assert 10 <= count <= 30
    # It is not given up while there would be time for another wait of half a day.
    assert age >= SCHEDULE.max_age - SCHEDULE.backoff.longest


@given(st.integers(1, 100))
def test_the_longest_wait_does_not_shrink(attempts: int) -> None:
    assert SCHEDULE.backoff.whole(attempts) <= SCHEDULE.backoff.whole(attempts + 1)


def test_a_message_that_is_older_than_a_day_is_attempted_no_more() -> None:
    assert SCHEDULE.wait(1, 86_401.0) is None


def test_an_attempt_is_held_longer_than_it_takes() -> None:
    assert SCHEDULE.hold > SCHEDULE.timeout
