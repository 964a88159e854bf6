"""Who makes room for whom, without any connection."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from proxy.edge import places
from proxy.edge.places import Places
from proxy.owners import Owner, stranger
from proxy.pool import Pool


@dataclass(eq=False)
class Occupier:
    """Stands for a connection that was accepted at `at`."""

    owner: Owner
    at: float = 0.0
    busy: bool = False
    is_cut: bool = False

    def idle_for(self, now: float) -> float:
        return 0.0 if self.busy else now - self.at

    def age(self, now: float) -> float:
        return now - self.at

    def cut(self) -> None:
        self.is_cut = True


def places_for(count: int) -> Places:
    return Places(Pool(count, places.MIN_SHARE))


def occupier(number: int, at: float = 0.0, *, busy: bool = False) -> Occupier:
    """A connection from an address with this number."""
    return Occupier(stranger(f"10.0.{number // 250}.{number % 250}"), at, busy)


def test_the_address_with_most_connections_makes_room_for_another() -> None:
    pool = Pool(1000, places.MIN_SHARE)
    full = Places(pool)
    many, few = [occupier(0, at=1.0) for _ in range(100)], [occupier(1)]
    assert all(full.enter(place, 1.0) for place in many)
    while pool.fits(few[-1].owner, 1):
        assert full.enter(few[-1], 1.0)
        few.append(occupier(len(few) + 1))
    assert full.enter(few[-1], 1.0)
    assert [place.is_cut for place in many] == [True] + [False] * 99
    assert not any(place.is_cut for place in few)


def test_young_connections_of_the_same_address_stay() -> None:
    full = places_for(1000)
    held = [occupier(1, busy=True)]
    while full.enter(held[-1], places.EVICTION_AGE / 2):
        held.append(occupier(1, busy=True))
    assert len(held) > 100
    assert not any(place.is_cut for place in held)
    assert full.enter(occupier(1), places.EVICTION_AGE)
    assert held[0].is_cut


def test_strangers_of_many_addresses_leave_the_rest_to_members() -> None:
    full = places_for(1000)
    held = [occupier(number) for number in range(500)]
    assert sum(full.enter(place, 0.5) for place in held) == 200
    assert full.enter(occupier(501), 1.0)
    assert [place.is_cut for place in held[:2]] == [True, False]


def test_idle_connections_of_the_member_with_most_make_room() -> None:
    full = places_for(200)
    for number in range(300):
        place = occupier(1, busy=number % 100 > 0)
        member = f"member {number % 50}"
        if full.enter(place, 0.0):
            full.join_member(place, member, 0.0)
    taken = sum(map(len, full.of_members()))
    assert taken > 190
    while full.enter(occupier(2), 0.5):
        pass
    assert full.enter(occupier(3), places.EVICTION_IDLE)
    assert sum(map(len, full.of_members())) <= taken


def test_a_member_has_a_half_of_all_places() -> None:
    full = places_for(200)
    held = [occupier(1, busy=True) for _ in range(101)]
    assert all(full.enter(place, 0.0) for place in held[:1])
    assert full.join_member(held[0], "eve", 0.0) is None
    for place in held[1:100]:
        assert full.enter(place, 0.0)
        assert full.join_member(place, "eve", 0.0) is None
    assert full.enter(held[100], 0.0)
    assert full.join_member(held[100], "eve", 9.0) == 100
    assert full.join_member(held[100], "bob", 9.0) is None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60))
def test_the_largest_group_is_known_at_all_times(steps: list[tuple[str, bool]]) -> None:
    groups = places._Groups()
    held: dict[str, list[Occupier]] = {"a": [], "b": [], "c": []}
    for key, comes in steps:
        if comes:
            held[key].append(Occupier(stranger(key)))
            groups.add(held[key][-1])
        elif held[key]:
            assert groups.discard(held[key].pop())
        assert len(groups.largest()) == max(map(len, held.values()))
        assert not groups.discard(Occupier(stranger(key)))
