"""How many jobs a client follows, and which jobs an interrupt means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.jobs.clients import Clients, busy, interrupted, waits_for_client
from proxy.jobs.models import Job
from proxy.jobs.protocol import SocketClosed, SocketKnown, SocketOpened
from proxy.members.member import Member, Parallelism

ANN, BOB = Member("ann"), Member("bob")


def job(prompt_id: str, member: str = "ann", client_id: str | None = "c", **fields: Any) -> Job:
    known: dict[str, Any] = {"number": 0, "graph": {}, "extra_data": {}, "targets": None}
    return Job(prompt_id, member, client_id=client_id, create_time=0, **known, **fields)


def opened(clients: Clients, member: str, client_id: str, socket: str = "s") -> None:
    clients.hear(SocketOpened(member, client_id, socket, 0))


def test_a_client_listens_until_its_newest_socket_is_closed() -> None:
    clients = Clients()
    opened(clients, "ann", "c", "first")
    opened(clients, "ann", "c", "second")
    clients.hear(SocketClosed("ann", "c", "first"))
    assert clients.listens("ann", "c")
    clients.hear(SocketClosed("ann", "c", "second"))
    assert not clients.listens("ann", "c")
    assert not clients.listens("ann", None)
    assert clients.one_at_a_time(ANN, "c")


def test_a_client_that_listens_follows_one_job_at_a_time() -> None:
    clients = Clients()
    opened(clients, "ann", "c")
    assert clients.one_at_a_time(ANN, "c")


def test_a_client_that_never_listened_asks_by_id() -> None:
    clients = Clients()
    assert not clients.one_at_a_time(ANN, "c")
    assert not clients.one_at_a_time(ANN, None)


def test_a_client_that_says_so_follows_several_on_later_sockets_too() -> None:
    clients = Clients()
    opened(clients, "ann", "c")
    clients.hear(SocketKnown("ann", "c", "s", 0, several=True))
    opened(clients, "ann", "c")
    assert not clients.one_at_a_time(ANN, "c")


def test_what_is_known_of_a_client_holds_for_its_member_alone() -> None:
    clients = Clients()
    opened(clients, "ann", "c")
    clients.hear(SocketKnown("bob", "c", "s", 0, several=True))
    assert clients.one_at_a_time(ANN, "c")
    assert not clients.one_at_a_time(BOB, "c")


def test_the_clients_that_connected_last_are_remembered() -> None:
    clients = Clients(most=2)
    for client_id in ("a", "b", "a", "c"):
        opened(clients, "ann", client_id)
    opened(clients, "bob", "b")
    assert [clients.one_at_a_time(ANN, one) for one in "abc"] == [True, False, True]


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
    opened(clients, "ann", "c")
    assert clients.one_at_a_time(replace(ANN, client_parallelism=own), "c") is expected


def test_one_holds_for_jobs_without_a_client_id_too() -> None:
    assert Clients("one").one_at_a_time(ANN, None)


def test_a_job_waits_for_the_others_of_its_client() -> None:
    taken = busy([job("1")])
    assert waits_for_client(job("2", one_at_a_time=True), taken)
    assert not waits_for_client(job("2"), taken)
    assert not waits_for_client(job("2", client_id="d", one_at_a_time=True), taken)
    assert not waits_for_client(job("2", member="bob", one_at_a_time=True), taken)


RUNNING = [
    job("1", submitter="x", started_at=30, order=1),
    job("2", submitter="y", started_at=10, order=2),
    job("3", submitter="x", client_id="d", started_at=20, order=3),
]


@pytest.mark.parametrize(
    ("submitter", "client_id", "expected"),
    [
        ("x", None, ["1", "3"]),
        ("y", None, ["2"]),
        ("z", None, ["2"]),
        ("", None, ["2"]),
        ("x", "c", ["1", "2"]),
        ("x", "nobody", []),
    ],
)
def test_an_interrupt_means_the_callers_jobs_or_the_oldest(
    submitter: str, client_id: str | None, expected: list[str]
) -> None:
    assert [one.prompt_id for one in interrupted(RUNNING, submitter, client_id)] == expected


def test_an_interrupt_of_nothing_is_nothing() -> None:
    assert interrupted([], "x", None) == []


jobs = st.builds(
    job,
    st.uuids().map(str),
    submitter=st.sampled_from(["", "x", "y"]),
    started_at=st.integers(0, 9),
    order=st.integers(0, 9),
)


@given(st.lists(jobs), st.sampled_from(["", "x", "y", "z"]))
def test_an_interrupt_never_means_a_strangers_job_beside_others(
    running: list[Job], submitter: str
) -> None:
    meant = interrupted(running, submitter, None)
    assert bool(meant) == bool(running)
    assert len(meant) == 1 or {one.submitter for one in meant} <= {submitter}
