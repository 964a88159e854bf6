"""What a replica remembers of the messages that it has sent."""

from __future__ import annotations

import pytest

from proxy.jobs import job_deliveries
from proxy.jobs.job_deliveries import JobDeliveries
from proxy.jobs.messages import JobMessage
from proxy.storage.job_tables import JobKey
from proxy.translate.events import Event

KEY = JobKey("anna", "p")


def message(number: int, step: str, order: int = 1, client_id: str = "c") -> JobMessage:
    return JobMessage(KEY, order, client_id, True, Event(step, {}), 1, number, step)


def test_after_its_last_message_a_job_is_over_and_nothing_of_it_is_due() -> None:
    sent = JobDeliveries()
    assert [sent.receive(message(1, "end")), sent.receive(message(2, "over"))] == [True, True]
    assert sent.is_over(1)
    assert sent.unfinished() == {}
    assert not sent.receive(message(3, "execution_start"))
    assert sent.expect(1, KEY, "c") is None


def test_a_gap_is_told_once_and_closed_by_what_was_missing() -> None:
    sent = JobDeliveries()
    assert not sent.receive(message(2, "end"))
    assert sent.missed.is_set()
    assert sent.lack
    sent.missed.clear()
    assert not sent.receive(message(2, "end"))
    assert not sent.missed.is_set()
    assert sent.receive(message(1, "execution_start"))
    assert not sent.lack


def test_what_clients_have_left_behind_is_forgotten() -> None:
    sent = JobDeliveries()
    for order, client_id in enumerate("abc"):
        sent.expect(order, KEY, client_id)
    sent.forget("bob", ("a",))
    sent.forget("anna", ("a", "b"))
    assert list(sent.unfinished()) == [2]


def test_the_oldest_ends_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_deliveries, "_MAX_CLOSED", 2)
    sent = JobDeliveries()
    for order in range(3):
        sent.close(order)
    assert [sent.is_over(order) for order in range(3)] == [False, True, True]
