"""The rejected messages of a connection of the cloud."""

from __future__ import annotations

from proxy.cloud.rejections import INTERVAL, MAX_REJECTED, Rejections


def test_the_first_rejected_message_is_logged() -> None:
    assert Rejections().count(1.0) == 1


def test_those_of_an_interval_are_logged_together_after_it() -> None:
    rejections = Rejections()
    assert [rejections.count(now) for now in (0.0, 1.0, 2.0, INTERVAL)] == [1, 0, 0, 3]


def test_many_in_an_interval_are_too_many() -> None:
    rejections = Rejections()
    for _ in range(MAX_REJECTED - 1):
        rejections.count(0.0)
    assert not rejections.too_many
    rejections.count(1.0)
    assert rejections.too_many


def test_as_many_over_a_long_time_are_not_too_many() -> None:
    rejections = Rejections()
    for number in range(10 * MAX_REJECTED):
        rejections.count(number * INTERVAL / 100)
    assert not rejections.too_many
