"""Whether an account takes jobs."""

from __future__ import annotations

import pytest

from proxy.accounts.health import RESTS, Health, Reason


def test_a_new_account_is_well() -> None:
    assert Health().well
    assert Health().ready(0.0)


@pytest.mark.parametrize("reason", list(RESTS))
def test_it_rests_longer_each_time_and_not_for_ever(reason: Reason) -> None:
    health, now, (first, longest) = Health(), 0.0, RESTS[reason]
    rests = []
    for _ in range(12):
        health.failed(reason, now)
        assert not health.ready(now)
        rests.append(health.until - now)
        now = health.until
        assert health.ready(now)
        health.sent()
    assert rests[:2] == [first, 2 * first]
    assert rests[-1] == longest


def test_one_job_tries_at_a_time() -> None:
    health = Health()
    health.failed("no_credits", 0.0)
    health.sent()
    assert not health.ready(1000.0)
    health.worked()
    assert health.ready(1000.0)
    assert health.well


def test_a_try_without_a_word_on_the_account_is_followed_by_another() -> None:
    health = Health()
    health.failed("unreachable", 0.0)
    health.sent()
    health.unsettled()
    assert health.ready(health.until)


def test_jobs_that_fail_together_are_one_failure() -> None:
    health = Health()
    for _ in range(5):
        health.failed("unreachable", 0.0)
    assert health.until == RESTS["unreachable"][0]


def test_it_rests_as_long_as_the_cloud_asks() -> None:
    health = Health()
    health.failed("rate_limited", 10.0, asked=45.0)
    assert health.until == 55.0


def test_another_key_is_a_new_beginning() -> None:
    health = Health()
    health.failed("dead_key", 0.0)
    health.renewed()
    assert health.ready(0.0)
