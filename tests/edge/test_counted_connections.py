"""Who makes room for whom, without any connection."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.edge import counted_connections
from proxy.edge.counted_connections import CountedConnections
from proxy.sharing.owners import Owner, stranger
from proxy.sharing.pool import Pool
from proxy.translate.errors import LocalError


@dataclass(eq=False)
class FakeConnection:
    """Stands for a connection that is idle since `at`."""

    owner: Owner
    at: float = 0.0
    busy: bool = False
    is_cut: bool = False

    def idle_for(self, now: float) -> float:
        return 0.0 if self.busy else now - self.at

    def cut(self) -> None:
        self.is_cut = True


def counting_up_to(count: int) -> CountedConnections[Any]:
    return CountedConnections(Pool(count, counted_connections.MIN_SHARE))


def connection_of(number: int, at: float = 0.0, *, busy: bool = False) -> FakeConnection:
    """A connection from an address with this number."""
    return FakeConnection(stranger(f"10.0.{number // 250}.{number % 250}"), at, busy)


def test_an_address_with_more_connections_makes_room_for_another() -> None:
    pool = Pool(1000, counted_connections.MIN_SHARE)
    full: CountedConnections[Any] = CountedConnections(pool)
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
    while full.enter(held[-1], 0.0):
        held.append(connection_of(1, busy=True))
    assert len(held) > 100
    assert not full.enter(connection_of(1), counted_connections.EVICTION_AGE / 2)
    assert not any(connection.is_cut for connection in held)
    assert full.enter(connection_of(1), counted_connections.EVICTION_AGE)
    assert held[0].is_cut


def test_strangers_of_many_addresses_leave_the_rest_to_members() -> None:
    full = counting_up_to(1000)
    held = [connection_of(number) for number in range(500)]
    assert sum(full.enter(connection, 0.0) for connection in held) == 200
    assert not full.enter(connection_of(501), 0.5)
    assert full.enter(connection_of(501), 1.0)
    assert [connection.is_cut for connection in held[:2]] == [True, False]


def test_an_address_with_many_connections_replaces_its_own() -> None:
    full = counting_up_to(1000)
    other, own = connection_of(2), [connection_of(1)]
    assert full.enter(other, 0.0)
    while full.enter(own[-1], 0.0):
        own.append(connection_of(1))
    assert full.enter(own[-1], counted_connections.EVICTION_AGE)
    assert [connection.is_cut for connection in (other, *own[:2])] == [False, True, False]


def test_many_strangers_never_close_idle_connections_of_members() -> None:
    full = counting_up_to(200)
    member, now = connection_of(1), counted_connections.EVICTION_IDLE
    assert full.enter(member, 0.0)
    full.join(member, "ann", 0.0)
    assert sum(full.enter(connection_of(number), now) for number in range(2, 100)) < 50
    assert not member.is_cut


def test_connections_of_reverse_proxies_are_of_no_address() -> None:
    full = counting_up_to(1000)
    held = [FakeConnection(Owner()) for _ in range(100)]
    assert all(full.enter(connection, 0.0) for connection in held)
    assert sum(full.enter(connection_of(number), 0.0) for number in range(200)) == 100
    assert not any(connection.is_cut for connection in held)


def test_idle_connections_of_the_member_with_most_make_room() -> None:
    full = counting_up_to(200)
    held = [connection_of(1, busy=number % 100 > 0) for number in range(300)]
    for number, connection in enumerate(held):
        if full.enter(connection, 0.0):
            with contextlib.suppress(LocalError):
                full.join(connection, f"member {number % 50}", 0.0)
    assert sum(bool(connection.owner.member) for connection in held) > 190
    while full.enter(connection_of(2), 0.5):
        pass
    assert full.enter(connection_of(3), counted_connections.EVICTION_IDLE)
    assert any(connection.is_cut for connection in held if connection.owner.member)


def test_a_member_has_a_half_of_all_connections() -> None:
    full = counting_up_to(200)
    held = [connection_of(1, busy=True) for _ in range(101)]
    assert all(full.enter(connection, 0.0) for connection in held[:1])
    full.join(held[0], "eve", 0.0)
    for connection in held[1:100]:
        assert full.enter(connection, 0.0)
        full.join(connection, "eve", 0.0)
    assert full.enter(held[100], 0.0)
    with pytest.raises(LocalError, match="You have 100 connections"):
        full.join(held[100], "eve", 9.0)
    full.join(held[100], "bob", 9.0)
    assert held[100].owner == Owner("bob")
