"""Shares of a pool that shrink as it fills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sharing.owners import Owner, network_of, stranger
from proxy.sharing.pool import Pool

CAPACITY, MINIMUM = 10_000, 40
ANN, BOB, EVE = Owner("ann"), Owner("bob"), Owner("eve")
OWNERS = [ANN, BOB, EVE, *(stranger(f"10.0.0.{number}") for number in range(4)), Owner()]


def fill(pool: Pool, owner: Owner, step: int = 10) -> int:
    """Take as much as an owner gets."""
    while pool.take(owner, step):
        pass
    return pool.held(owner)


@pytest.fixture
def pool() -> Pool:
    return Pool(CAPACITY, MINIMUM)


def test_greedy_members_get_a_half_a_quarter_and_an_eighth(pool: Pool) -> None:
    assert [fill(pool, Owner(name)) for name in "abcd"] == [5000, 2500, 1250, MINIMUM]


def test_strangers_of_many_addresses_get_a_fifth_together(pool: Pool) -> None:
    held = [fill(pool, stranger(f"10.0.{number // 250}.{number % 250}")) for number in range(1000)]
    assert sum(held) <= CAPACITY / 5
    assert pool.take(ANN, CAPACITY // 4)


def test_one_address_leaves_room_for_other_strangers(pool: Pool) -> None:
    first = fill(pool, stranger("10.0.0.1"))
    assert first == pytest.approx(CAPACITY / 9, abs=10)
    assert fill(pool, stranger("10.0.0.2")) > first / 4


def test_networks_of_one_client_are_one_address(pool: Pool) -> None:
    fill(pool, stranger("2001:db8::1"))
    assert not pool.take(stranger("2001:db8::ffff:2"), 10)
    assert pool.take(stranger("2001:db8:0:1::1"), 10)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/socket", "/run/socket"),
    ],
)
def test_a_client_is_counted_by_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_who_holds_little_gets_a_place_beside_the_greedy(pool: Pool) -> None:
    for number in range(20):
        fill(pool, Owner(f"greedy {number}"))
        fill(pool, stranger(f"10.0.0.{number}"))
    assert fill(pool, ANN) == MINIMUM


def test_a_small_pool_has_a_place_for_everybody_who_is_alone() -> None:
    for owner in OWNERS:
        assert Pool(1, MINIMUM).take(owner, 1)


def test_most_is_what_an_owner_gets_of_an_empty_pool(pool: Pool) -> None:
    for owner in OWNERS:
        assert fill(Pool(CAPACITY, MINIMUM), owner, step=1) == pool.most(owner)


def test_what_can_be_made_again_gives_way(pool: Pool) -> None:
    def evict() -> bool:
        if not cached:
            return False
        pool.give_back_spare(BOB, cached.pop())
        return True

    cached: list[int] = []
    pool.add_cache(evict)
    while pool.take_spare(BOB, 100):
        cached.append(100)
    assert len(cached) == 50
    assert [fill(pool, Owner(name)) for name in "abc"] == [5000, 2500, 1250]
    assert pool.used <= CAPACITY
    assert 0 < len(cached) < 50


def test_a_cache_keeps_no_more_than_a_share_of_what_is_free(pool: Pool) -> None:
    fill(pool, ANN)
    kept = 0
    while pool.take_spare(BOB, 10):
        kept += 10
    assert kept == 2500


def test_a_refusal_with_nothing_to_evict_changes_nothing(pool: Pool) -> None:
    assert pool.take_spare(BOB, CAPACITY // 2)
    pool.add_cache(lambda: False)
    assert pool.take(ANN, CAPACITY // 2)
    assert not pool.take(EVE, 1)
    assert (pool.used, pool.held(EVE)) == (CAPACITY, 0)


Step = tuple[Owner, int, bool]
STEPS = st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(1, 3000), st.booleans()))


@given(STEPS)
def test_all_that_is_held_is_within_the_pool_and_its_shares(steps: list[Step]) -> None:
    pool = Pool(CAPACITY, MINIMUM)
    held = dict.fromkeys(OWNERS, 0)
    for owner, amount, takes in steps:
        if takes:
            held[owner] += amount * pool.take(owner, amount)
        else:
            amount = min(amount, held[owner])
            pool.give_back(owner, amount)
            held[owner] -= amount
        assert {owner: pool.held(owner) for owner in OWNERS} == held
        assert pool.used == sum(held.values()) <= CAPACITY
        assert sum(held[owner] for owner in OWNERS if not owner.member) <= CAPACITY / 5
        assert all(held[owner] <= pool.most(owner) for owner in OWNERS)


@given(STEPS)
def test_what_an_owner_may_take_shrinks_with_what_others_take(steps: list[Step]) -> None:
    pool = Pool(CAPACITY, MINIMUM)
    for owner, amount, _ in steps:
        fitted = [pool.fits(other, 500) for other in OWNERS]
        if pool.take(owner, amount):
            assert all(
                before or not pool.fits(other, 500)
                for before, other in zip(fitted, OWNERS, strict=True)
            )


@given(STEPS)
def test_what_was_given_back_can_be_taken_again(steps: list[Step]) -> None:
    pool = Pool(CAPACITY, MINIMUM)
    for owner, amount, _ in steps:
        if pool.take(owner, amount):
            pool.give_back(owner, amount)
        assert (pool.used, pool.held(owner)) == (0, 0)
