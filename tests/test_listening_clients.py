"""Clients that listen to something."""

from __future__ import annotations

from proxy.jobs.subscribers import ListeningClients


def test_the_clients_of_a_member_are_those_that_want_to_listen() -> None:
    listening = ListeningClients(10)
    listening.change("ann", "a", wants=True)
    listening.change("ann", "b", wants=True)
    listening.change("ann", "a", wants=False)
    assert (listening.of("ann"), listening.of("bob")) == (["b"], [])


def test_the_one_that_began_first_gives_way() -> None:
    listening = ListeningClients(2)
    for client_id in "abc":
        listening.change("ann", client_id, wants=True)
    assert listening.of("ann") == ["b", "c"]
