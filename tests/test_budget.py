"""The memory budget: shares, the whole, and what is given back."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sharing.budget import (
    MemoryBudget,
    MemoryLimitError,
    ThresholdAllocation,
)
from proxy.sharing.owners import stranger

LIMIT = 1000
HALF = LIMIT // 2


def test_a_member_gets_its_share_and_no_more() -> None:
    budget = MemoryBudget(LIMIT)
    allocation = budget.member("ann", "body")
    allocation.grow(HALF)
    with pytest.raises(MemoryLimitError) as refused:
        budget.member("ann", "answer").grow(200)
    assert refused.value.kind == "rate_limited"
    budget.member("ben", "body").grow(1)


def test_what_never_fits_is_too_large() -> None:
    with pytest.raises(MemoryLimitError) as refused:
        MemoryBudget(LIMIT).owner(stranger("10.0.0.1"), "body").grow(LIMIT // 5)
    assert refused.value.kind == "too_large"


def test_owners_together_stay_within_the_limit() -> None:
    budget = MemoryBudget(LIMIT)
    budget.member("ann", "body").grow(500)
    budget.member("ben", "body").grow(250)
    with pytest.raises(MemoryLimitError):
        budget.member("cid", "body").grow(250)


def test_a_refused_growth_changes_nothing() -> None:
    budget = MemoryBudget(LIMIT)
    allocation = budget.member("ann", "body")
    allocation.grow(400)
    with pytest.raises(MemoryLimitError):
        allocation.grow(201)
    assert (allocation.size, budget.held()["body"]) == (400, 400)


def test_the_end_of_the_block_gives_everything_back() -> None:
    budget = MemoryBudget(LIMIT)
    with budget.member("ann", "picture") as allocation:
        allocation.grow(10)
        assert budget.held()["picture"] == 10
    assert budget.held()["picture"] == 0
    allocation.release()


def test_few_bytes_are_not_counted_and_many_are_all() -> None:
    budget = MemoryBudget(LIMIT)
    held, allocate = ThresholdAllocation(100), partial(budget.member, "ann", "socket")
    for size, counted in ((99, 0), (100, 100), (300, 300), (99, 0), (200, 200)):
        assert held.fits(size, allocate)
        assert budget.held()["socket"] == counted
    assert not held.fits(HALF + 1, allocate)
    assert budget.held()["socket"] == 200
    for _ in range(2):
        held.release()
        assert budget.held()["socket"] == 0


def test_jobs_of_a_member_leave_room_for_its_requests() -> None:
    budget = MemoryBudget(LIMIT)
    first, second = budget.member("ann", "job"), budget.member("ann", "job")
    first.grow(HALF - 100)  # alone it may take what a request could
    with pytest.raises(MemoryLimitError):
        second.grow(1)
    budget.member("ann", "body").grow(100)
    first.resize(HALF // 2 - 1)
    second.grow(1)
    with pytest.raises(MemoryLimitError):
        second.grow(1)
    first.release()
    second.resize(HALF // 2)


def test_a_cache_gives_way_to_what_is_needed() -> None:
    budget = MemoryBudget(LIMIT)
    cached = budget.spare("ann", "workflow")
    cached.grow(HALF)

    def evict() -> bool:
        cached.release()
        return True

    budget.add_cache(evict)
    budget.member("ben", "body").grow(HALF)
    assert budget.held()["workflow"] == HALF
    budget.member("cid", "body").grow(HALF // 2)
    assert (budget.held()["workflow"], budget.held()["body"]) == (0, HALF + HALF // 2)


def test_a_cache_is_refused_beyond_a_share() -> None:
    with pytest.raises(MemoryLimitError):
        MemoryBudget(LIMIT).spare("ann", "workflow").grow(HALF + 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700))))
def test_the_sum_never_passes_the_limit(steps: list[tuple[int, int]]) -> None:
    budget = MemoryBudget(LIMIT)
    allocations = [budget.member(name, "body") for name in "abcd"]
    for which, size in steps:
        try:
            allocations[which].resize(size)
        except MemoryLimitError:
            continue
        assert (
            sum(budget.held().values())
            == sum(allocation.size for allocation in allocations)
            <= LIMIT
        )
