"""Which clients listen, and which follow one job at a time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proxy.jobs.clients import Clients
from proxy.members.member import Member, Parallelism

ANN, BOB = Member("ann"), Member("bob")


def test_a_client_listens_until_its_socket_is_closed() -> None:
    clients = Clients()
    clients.opened("ann", "c")
    assert clients.listens("ann", "c")
    clients.closed("ann", "c")
    assert not clients.listens("ann", "c")
    assert not clients.listens("ann", None)
    assert clients.one_at_a_time(ANN, "c")


def test_a_client_that_listens_follows_one_job_at_a_time() -> None:
    clients = Clients()
    clients.opened("ann", "c")
    assert clients.one_at_a_time(ANN, "c")


def test_a_client_that_never_listened_asks_by_id() -> None:
    clients = Clients()
    assert not clients.one_at_a_time(ANN, "c")
    assert not clients.one_at_a_time(ANN, None)


def test_a_client_that_says_so_follows_several_on_later_sockets_too() -> None:
    clients = Clients()
    clients.opened("ann", "c")
    clients.opened("ann", "c", several=True)
    clients.opened("ann", "c")
    assert not clients.one_at_a_time(ANN, "c")


def test_what_is_known_of_a_client_holds_for_its_member_alone() -> None:
    clients = Clients()
    clients.opened("ann", "c")
    clients.opened("bob", "c", several=True)
    assert clients.one_at_a_time(ANN, "c")
    assert not clients.one_at_a_time(BOB, "c")


def test_the_clients_that_connected_last_are_remembered() -> None:
    clients = Clients(limit=2)
    for client_id in ("a", "b", "a", "c"):
        clients.opened("ann", client_id)
    clients.opened("bob", "b")
    assert [clients.one_at_a_time(ANN, client_id) for client_id in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    ("setting", "own", "expected"),
    [
        ("one", None, True),
        ("many", None, False),
        ("one", "many", False),
        ("many", "one", True),
        ("many", "auto", True),
    ],
)
def test_the_setting_decides_and_the_members_own_choice_before_it(
    setting: Parallelism, own: Parallelism | None, expected: bool
) -> None:
    clients = Clients(setting)
    clients.opened("ann", "c")
    assert clients.one_at_a_time(replace(ANN, client_parallelism=own), "c") is expected


def test_one_holds_for_jobs_without_a_client_id_too() -> None:
    assert Clients("one").one_at_a_time(ANN, None)
