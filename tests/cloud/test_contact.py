"""Since when the cloud owes an account an answer."""

from __future__ import annotations

from proxy.cloud.contact import Contact


def test_without_calls_nothing_is_unanswered() -> None:
    assert Contact().unanswered_since is None


def test_a_call_is_unanswered_until_it_has_an_answer() -> None:
    contact = Contact()
    contact.call(1.0)
    assert contact.unanswered_since == 1.0
    contact.ended(4.0, answered=True)
    assert contact.unanswered_since is None
    assert contact.answered_at == 4.0


def test_a_call_that_failed_stays_unanswered_until_another_has_an_answer() -> None:
    contact = Contact()
    contact.call(1.0)
    contact.ended(2.0, answered=False)
    contact.call(3.0)
    contact.ended(4.0, answered=False)
    assert contact.unanswered_since == 1.0
    contact.call(5.0)
    contact.ended(6.0, answered=True)
    assert contact.unanswered_since is None


def test_a_long_call_counts_from_the_last_answer_to_another() -> None:
    contact = Contact()
    contact.call(1.0)
    contact.call(2.0)
    contact.ended(3.0, answered=True)
    assert contact.unanswered_since == 3.0


def test_the_oldest_of_several_calls_counts() -> None:
    contact = Contact()
    contact.call(1.0)
    contact.call(2.0)
    assert contact.unanswered_since == 1.0
    contact.ended(5.0, answered=False)
    assert contact.unanswered_since == 1.0


def test_a_lost_socket_is_unanswered_until_it_is_open_again() -> None:
    contact = Contact()
    contact.answered(1.0)
    contact.lost(2.0)
    contact.lost(3.0)
    assert contact.unanswered_since == 2.0
    contact.answered(4.0)
    assert contact.unanswered_since is None


def test_a_call_that_began_before_the_last_answer_says_nothing_of_the_time_before() -> None:
    contact = Contact()
    contact.call(1.0)
    contact.answered(3.0)
    contact.ended(4.0, answered=False)
    assert contact.unanswered_since == 3.0
