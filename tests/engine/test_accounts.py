"""How many jobs an account may have, whether it takes any, and which takes the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.accounts import (
    MAX_SLOTS,
    RESTS,
    Account,
    AccountHealth,
    Eligibility,
    Reason,
    Slots,
)
from proxy.translate.errors import LocalError


def test_a_fixed_number_stays() -> None:
    slots = Slots(3)
    slots.running(5)
    slots.held(2, 1)
    assert (slots.count, slots.limit, slots.certain) == (3, 3, True)


def test_it_grows_while_everything_runs_at_once() -> None:
    slots = Slots()
    for running in range(1, MAX_SLOTS + 3):
        slots.running(min(running, slots.limit))
    assert slots.count == MAX_SLOTS
    assert slots.certain


def test_one_more_is_sent_until_the_limit_is_known() -> None:
    slots = Slots()
    assert slots.limit == 2
    slots.running(1)
    slots.held(1, 1)
    assert (slots.limit, slots.certain) == (1, True)


def test_it_shrinks_when_jobs_keep_waiting_for_slots() -> None:
    slots = Slots()
    slots.running(4)
    slots.held(3, 1)
    slots.held(3, 1)
    assert slots.count == 4
    slots.held(3, 1)
    assert slots.count == 1


def test_one_reading_without_held_jobs_ends_the_doubts() -> None:
    slots = Slots()
    slots.running(4)
    for held in (3, 3, 0, 3, 3):
        slots.held(held, 1)
    assert slots.count == 4


def test_what_was_learnt_before_is_probed_again_for_the_plan_may_be_larger_now() -> None:
    slots = Slots()
    slots.restore(3)
    assert (slots.count, slots.certain, slots.limit) == (3, False, 4)
    slots.held(1, 3)
    assert (slots.count, slots.certain, slots.limit) == (3, True, 3)


@pytest.mark.parametrize(
    ("kept", "count"), [(-4, 1), (0, 1), (MAX_SLOTS, MAX_SLOTS), (99, MAX_SLOTS)]
)
def test_no_kept_number_goes_beyond_what_plans_run(kept: int, count: int) -> None:
    slots = Slots()
    slots.restore(kept)
    assert slots.count == count
    assert slots.certain is (count == MAX_SLOTS)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 8))))
def test_there_is_always_room_for_one_and_never_for_many(
    readings: list[tuple[bool, int, int]],
) -> None:
    slots = Slots()
    for running, reading, other in readings:
        if running:
            slots.running(reading)
        else:
            slots.held(reading, other)
        assert 1 <= slots.count <= MAX_SLOTS
        assert slots.limit <= MAX_SLOTS + 1


def test_a_new_account_is_well() -> None:
    assert AccountHealth().well
    assert AccountHealth().ready(0.0)


def test_an_account_is_known_by_what_became_of_a_job() -> None:
    taken, refused = AccountHealth(), AccountHealth()
    assert not taken.known
    taken.renewed()
    refused.failed("no_credits", 0.0)
    assert taken.known
    assert refused.known


@pytest.mark.parametrize("reason", list(RESTS))
def test_it_rests_longer_each_time_and_not_for_ever(reason: Reason) -> None:
    health, now, rests_for = AccountHealth(), 0.0, RESTS[reason]
    rests = []
    for _ in range(12):
        health.failed(reason, now)
        assert not health.ready(now)
        rests.append(health.until - now)
        now = health.until
        assert health.ready(now)
        health.sent()
    assert rests[:2] == [rests_for.first, 2 * rests_for.first]
    assert rests[-1] == rests_for.longest


def test_one_job_tries_at_a_time() -> None:
    health = AccountHealth()
    health.failed("no_credits", 0.0)
    health.sent()
    assert not health.ready(1000.0)
    health.renewed()
    assert health.ready(1000.0)
    assert health.well


def test_a_try_without_a_word_on_the_account_is_followed_by_another() -> None:
    health = AccountHealth()
    health.failed("unreachable", 0.0)
    health.sent()
    health.unsettled()
    assert health.ready(health.until)


def test_jobs_that_fail_together_are_one_failure() -> None:
    health = AccountHealth()
    for _ in range(5):
        health.failed("unreachable", 0.0)
    assert health.until == RESTS["unreachable"].first


def test_it_rests_as_long_as_the_cloud_asks() -> None:
    health = AccountHealth()
    health.failed("rate_limited", 10.0, asked=45.0)
    assert health.until == 55.0


def test_another_key_is_a_new_beginning() -> None:
    health = AccountHealth()
    health.failed("dead_key", 0.0)
    health.renewed()
    assert health.ready(0.0)


def test_who_may_use_an_account() -> None:
    some, all_ = (Eligibility(members=named) for named in (("anna",), ()))
    assert all_.allows("anna")
    assert some.allows("anna")
    assert not some.allows("ben")


def test_no_more_jobs_are_tried_than_are_known_to_run_before_the_plan_was_read() -> None:
    account = Account("one", None, "", slots=Slots())  # type: ignore[arg-type]
    account.slots.restore(3)
    assert account.limit == 3
    account.plan_read.set()
    assert account.limit == 4


def test_the_refusal_of_an_account_holds_no_request_that_it_was_raised_for() -> None:
    health = AccountHealth()
    try:
        raise LocalError("dead_key", "the key is not valid")
    except LocalError as error:
        health.failed("dead_key", 1.0, refusal=error)
    assert health.refusal is not None
    assert (health.refusal.message, health.refusal.__traceback__) == ("the key is not valid", None)
