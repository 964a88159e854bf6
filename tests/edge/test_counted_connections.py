"""Who makes room for whom, without any connection."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.edge import counted_connections
from proxy.edge.counted_connections import CountedConnections
from proxy.owners import Owner, stranger
from proxy.pool import Pool


@dataclass(eq=False)
class FakeConnection:
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


def counting_up_to(count: int) -> CountedConnections:
    return CountedConnections(Pool(count, counted_connections.MIN_SHARE))


def connection_of(number: int, at: float = 0.0, *, busy: bool = False) -> FakeConnection:
    """A connection from an address with this number."""
    return FakeConnection(stranger(f"10.0.{number // 250}.{number % 250}"), at, busy)


def test_the_address_with_most_connections_makes_room_for_another() -> None:
    pool = Pool(1000, counted_connections.MIN_SHARE)
    full = CountedConnections(pool)
    many, few = [connection_of(0, at=1.0) for _ in range(100)], [connection_of(1)]
    assert all(full.enter(connection, 1.0) for connection in many)
    while pool.fits(few[-1].owner, 1):
        assert full.enter(few[-1], 1.0)
        few.append(connection_of(len(few) + 1))
    assert full.enter(few[-1], 1.0)
    assert [connection.is_cut for connection in many] == [True] + [False] * 99
    assert not any(connection.is_cut for connection in few)


def test_young_connections_of_the_same_address_stay() -> None:
    full = counting_up_to(1000)
    held = [connection_of(1, busy=True)]
    while full.enter(held[-1], counted_connections.EVICTION_AGE / 2):
        held.append(connection_of(1, busy=True))
    assert len(held) > 100
    assert not any(connection.is_cut for connection in held)
    assert full.enter(connection_of(1), counted_connections.EVICTION_AGE)
    assert held[0].is_cut


def test_strangers_of_many_addresses_leave_the_rest_to_members() -> None:
    full = counting_up_to(1000)
    held = [connection_of(number) for number in range(500)]
    assert sum(full.enter(connection, 0.5) for connection in held) == 200
    assert full.enter(connection_of(501), 1.0)
    assert [connection.is_cut for connection in held[:2]] == [True, False]


def test_idle_connections_of_the_member_with_most_make_room() -> None:
    full = counting_up_to(200)
    held = [connection_of(1, busy=number % 100 > 0) for number in range(300)]
    for number, connection in enumerate(held):
        if full.enter(connection, 0.0):
            full.join_member(connection, f"member {number % 50}", 0.0)
    assert sum(bool(connection.owner.member) for connection in held) > 190
    while full.enter(connection_of(2), 0.5):
        pass
    assert full.enter(connection_of(3), counted_connections.EVICTION_IDLE)
    assert any(connection.is_cut for connection in held if connection.owner.member)


def test_a_member_has_a_half_of_all_connections() -> None:
    full = counting_up_to(200)
    held = [connection_of(1, busy=True) for _ in range(101)]
    assert all(full.enter(connection, 0.0) for connection in held[:1])
    assert full.join_member(held[0], "eve", 0.0) is None
    for connection in held[1:100]:
        assert full.enter(connection, 0.0)
        assert full.join_member(connection, "eve", 0.0) is None
    assert full.enter(held[100], 0.0)
    assert full.join_member(held[100], "eve", 9.0) == 100
    assert full.join_member(held[100], "bob", 9.0) is None
