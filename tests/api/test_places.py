"""Who makes room for whom, without any connection."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from proxy.api import places
from proxy.api.places import Places


@dataclass(eq=False)
class Occupier:
    """Stands for a connection that was accepted at `at`."""

    address: str | bytes
    at: float = 0.0
    member: str | None = None
    busy: bool = False
    is_cut: bool = False

    def idle_for(self, now: float) -> float:
        return 0.0 if self.busy else now - self.at

    def age(self, now: float) -> float:
        return now - self.at

    def cut(self) -> None:
        self.is_cut = True


def test_the_address_with_most_connections_makes_room_for_another() -> None:
    full = Places(100)
    many = [Occupier("10.0.0.1", at=1.0) for _ in range(60)]
    few = [Occupier("10.0.0.2") for _ in range(15)]
    assert all(full.enter(place, 1.0) for place in (*few, *many))
    assert full.enter(Occupier("10.0.0.3", at=1.0), 1.0)
    assert [place.is_cut for place in many] == [True] + [False] * 59
    assert not any(place.is_cut for place in few)


def test_young_connections_of_the_same_address_stay() -> None:
    full = Places(100)
    held = [Occupier("10.0.0.1", busy=True) for _ in range(places.MIN_SHARE)]
    assert all(full.enter(place, 0.0) for place in held)
    assert not full.enter(Occupier("10.0.0.1"), places.EVICTION_AGE / 2)
    assert not any(place.is_cut for place in held)
    assert full.enter(Occupier("10.0.0.1"), places.EVICTION_AGE)
    assert held[0].is_cut


def test_idle_connections_of_the_member_with_most_make_room() -> None:
    full = Places(200)
    for member, count in (("eve", 100), ("bob", 100)):
        for number in range(count):
            place = Occupier("10.0.0.1", busy=number > 0)
            assert full.enter(place, 0.0)
            assert full.join_member(place, member, 0.0, limited=True) is None
    assert not full.enter(Occupier("10.0.0.2"), 1.0)
    assert full.enter(Occupier("10.0.0.2"), places.EVICTION_IDLE)


def test_a_member_has_a_part_of_all_places() -> None:
    full = Places(200)
    for _ in range(100):
        assert full.join_member(Occupier("10.0.0.1", busy=True), "eve", 0.0, limited=True) is None
    assert full.join_member(Occupier("10.0.0.1"), "eve", 9.0, limited=True) == 100
    assert full.join_member(Occupier("10.0.0.1"), "local", 9.0, limited=False) is None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60))
def test_the_largest_group_is_known_at_all_times(steps: list[tuple[str, bool]]) -> None:
    groups = places._Groups()
    held: dict[str, list[Occupier]] = {"a": [], "b": [], "c": []}
    for key, comes in steps:
        if comes:
            held[key].append(Occupier(key))
            groups.add(key, held[key][-1])
        elif held[key]:
            assert groups.discard(key, held[key].pop())
        assert len(groups.largest()) == max(map(len, held.values()))
        assert not groups.discard(key, Occupier(key))
