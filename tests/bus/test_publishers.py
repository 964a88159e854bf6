"""What the beats of other publishers show: lost messages, silence, and who leads."""

from __future__ import annotations

import pytest

from proxy.bus import publishers as module
from proxy.bus.publishers import MAX_LEADER_SILENCE, MAX_SILENCE, Beat, Publishers

ONE, TWO = b"publish1", b"publish2"


def beat(publisher: bytes = ONE, losses: int | None = 0, *, leads: bool = False) -> Beat:
    return Beat(publisher, leads, losses)


@pytest.mark.parametrize(
    ("sent", "payload"),
    [
        (beat(), b"publish1" + bytes(9)),
        (beat(losses=258, leads=True), b"publish1" + b"\x01" + bytes(6) + b"\x01\x02"),
        (beat(losses=None), b"publish1" + b"\x00" + b"\xff" * 8),
    ],
)
def test_a_beat_is_seventeen_bytes(sent: Beat, payload: bytes) -> None:
    assert sent.encode() == payload
    assert Beat.decode(payload) == sent


def test_losses_are_seen_when_they_grow_also_with_the_first_beat() -> None:
    publishers = Publishers()
    assert not publishers.receive(beat(ONE), 0.0)
    assert publishers.receive(beat(TWO, 3), 0.0)
    assert not publishers.receive(beat(TWO, 3), 1.0)
    assert publishers.receive(beat(TWO, 4), 2.0)


def test_a_publisher_that_leaves_is_forgotten_and_has_lost_nothing() -> None:
    publishers = Publishers()
    publishers.receive(beat(losses=2), 0.0)
    assert not publishers.receive(beat(losses=None), 0.0)
    assert len(publishers) == 0
    assert publishers.find_silent(MAX_SILENCE + 1) == []


def test_a_silent_publisher_is_found_once_until_its_next_beat() -> None:
    publishers = Publishers()
    publishers.receive(beat(ONE), 0.0)
    publishers.receive(beat(TWO), 2.0)
    assert publishers.find_silent(MAX_SILENCE) == []
    assert publishers.find_silent(MAX_SILENCE + 0.1) == [ONE]
    assert publishers.find_silent(MAX_SILENCE + 0.1) == []
    publishers.receive(beat(ONE), 10.0)
    assert publishers.find_silent(10.0) == [TWO]
    assert publishers.find_silent(20.0) == [ONE]


def test_a_leader_that_nobody_has_heard_is_silent() -> None:
    publishers = Publishers()
    publishers.receive(beat(TWO), 0.0)
    assert publishers.is_leader_silent(0.0)


def test_the_silence_of_the_leader_alone_counts() -> None:
    publishers = Publishers()
    publishers.receive(beat(ONE, leads=True), 0.0)
    assert not publishers.is_leader_silent(MAX_LEADER_SILENCE - 0.1)
    assert publishers.is_leader_silent(MAX_LEADER_SILENCE)
    publishers.receive(beat(TWO, leads=True), 1.0)
    assert publishers.leader == TWO
    assert not publishers.is_leader_silent(1.0)
    publishers.receive(beat(TWO, None, leads=True), 1.0)
    assert publishers.is_leader_silent(1.0)


def test_one_beat_does_not_end_the_silence_of_the_leader() -> None:
    publishers = Publishers()
    publishers.receive(beat(ONE, leads=True), 0.0)
    publishers.receive(beat(ONE, leads=True), MAX_LEADER_SILENCE)
    assert publishers.is_leader_silent(MAX_LEADER_SILENCE)
    publishers.receive(beat(ONE, leads=True), 1.5 * MAX_LEADER_SILENCE)
    assert not publishers.is_leader_silent(1.5 * MAX_LEADER_SILENCE)


def test_a_leader_that_stops_to_lead_is_none() -> None:
    publishers = Publishers()
    publishers.receive(beat(ONE, leads=True), 0.0)
    publishers.receive(beat(ONE), 0.1)
    assert publishers.is_leader_silent(0.1)


def test_without_a_connection_nobody_is_silent_who_was_not_before() -> None:
    publishers = Publishers()
    publishers.receive(beat(ONE), 0.0)
    assert publishers.find_silent(5.0) == [ONE]
    publishers.receive(beat(TWO, leads=True), 5.0)
    publishers.restart(100.0)
    assert publishers.find_silent(100.0 + MAX_SILENCE) == []
    assert publishers.find_silent(100.1 + MAX_SILENCE) == [TWO]


def test_a_leader_is_silent_after_a_new_connection_until_its_next_beat() -> None:
    publishers = Publishers()
    publishers.receive(beat(ONE, leads=True), 0.0)
    publishers.restart(0.1)
    assert publishers.is_leader_silent(0.1)
    publishers.receive(beat(ONE, leads=True), 0.2)
    assert not publishers.is_leader_silent(0.2)


def test_the_number_of_publishers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PUBLISHERS", 2)
    publishers = Publishers()
    for number, id_ in enumerate((ONE, TWO, b"publish3")):
        publishers.receive(beat(id_), float(number))
    assert publishers.find_silent(100.0) == [TWO, b"publish3"]
