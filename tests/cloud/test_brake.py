"""The brake, with time passed in."""

from __future__ import annotations

from proxy.cloud.brake import Brake


def test_a_429_without_a_word_holds_back_longer_each_time() -> None:
    brake = Brake(first_wait=1.0, longest_wait=3.0)
    now = 10.0
    for pause in (1.0, 2.0, 3.0, 3.0):
        brake.slowed(now, None)
        assert brake.wait(now) == pause
        now += pause
        assert brake.wait(now) == 0.0


def test_an_answer_makes_the_next_pause_short_again() -> None:
    brake = Brake(first_wait=1.0)
    brake.slowed(0.0, None)
    brake.slowed(1.0, None)
    brake.succeeded()
    brake.slowed(5.0, None)
    assert brake.wait(5.0) == 1.0


def test_an_answer_to_an_earlier_call_does_not_end_the_pause() -> None:
    brake = Brake(first_wait=1.0)
    brake.slowed(0.0, None)
    brake.succeeded()
    assert brake.wait(0.5) == 0.5


def test_a_burst_of_429_is_one() -> None:
    brake = Brake(first_wait=1.0)
    for moment in range(5):
        brake.slowed(moment / 100, None)
    assert brake.wait(0.0) == 1.0


def test_retry_after_is_obeyed() -> None:
    brake = Brake()
    brake.slowed(0.0, 7.0)
    brake.slowed(0.0, 5.0)
    assert brake.wait(0.0) == 7.0
