"""Silence on the event socket, with time passed in."""

from __future__ import annotations

import pytest

from proxy.cloud.silence import Silence


@pytest.fixture
def silence() -> Silence:
    silence = Silence(first=10.0, longest=30.0)
    silence.begin(0.0)
    return silence


def test_a_message_begins_the_silence_anew(silence: Silence) -> None:
    silence.heard(9.0, "progress")
    assert not silence.is_over(18.0)
    assert silence.is_over(19.0)


def test_each_silent_connection_may_be_silent_for_longer(silence: Silence) -> None:
    now = 0.0
    for bound in (10.0, 20.0, 30.0, 30.0):
        silence.begin(now)
        assert not silence.is_over(now + bound - 0.1)
        assert silence.is_over(now + bound)
        now += bound


@pytest.mark.parametrize("greeting", ["status", "feature_flags"])
def test_a_greeting_proves_nothing(silence: Silence, greeting: str) -> None:
    assert silence.is_over(10.0)
    silence.begin(10.0)
    silence.heard(10.0, greeting)
    assert not silence.is_over(29.0)


def test_an_event_makes_the_next_silence_short_again(silence: Silence) -> None:
    assert silence.is_over(10.0)
    silence.begin(10.0)
    silence.heard(10.0, "executing")
    assert silence.is_over(20.0)
