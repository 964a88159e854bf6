"""How fair and how busy: measures over jobs that waited and ran, without I/O.

Times are seconds. A job waits in line from the moment at which its client knows that it was taken
until the cloud has it; one that the cloud had before that has not waited in line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A job of a member: when it was sent and taken, when the cloud had it, when it ran."""

    member: str
    sent: float
    taken: float
    arrived: float
    started: float
    ended: float


Span = tuple[float, float]


def jain(values: Sequence[float]) -> float:
    """Jain's index: 1 where all are equal, 1/n where one has everything."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else 1.0


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time in spans that do not touch."""
    whole: list[Span] = []
    for begin, end in sorted(spans):
        if whole and begin <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(whole[-1][1], end)
        else:
            whole.append((begin, end))
    return whole


def waiting(turns: Iterable[Turn]) -> dict[str, list[Span]]:
    """When each member had a job in line."""
    spans = defaultdict(list)
    for turn in turns:
        if turn.taken < turn.arrived:
            spans[turn.member].append((turn.taken, turn.arrived))
    return {member: merged(found) for member, found in spans.items()}


def windows(turns: Sequence[Turn], length: float, step: float) -> Iterator[tuple[float, float]]:
    """Of each window in which several members waited throughout: its begin, and Jain's index.

    What is compared is how many turns each of these members had in it.
    """
    waits = waiting(turns)
    begin, end = min(t.arrived for t in turns), max(t.arrived for t in turns)
    at = begin
    while at + length <= end:
        throughout = [
            member
            for member, spans in waits.items()
            if any(first <= at and at + length <= last for first, last in spans)
        ]
        if len(throughout) > 1:
            had = Counter(t.member for t in turns if at <= t.arrived < at + length)
            yield at - begin, jain([had[member] for member in throughout])
        at += step


def dues(turns: Sequence[Turn]) -> dict[str, tuple[float, float]]:
    """Of the turns that were given while a member waited, the share that it had and was due.

    Whoever waits when a turn is given is due an equal part of it.
    """
    waits = waiting(turns)
    given: Counter[str] = Counter()
    due: defaultdict[str, float] = defaultdict(float)
    for turn in turns:
        among = [
            member
            for member, spans in waits.items()
            if any(first <= turn.arrived <= last for first, last in spans)
        ]
        for member in among:
            given[member] += 1
            due[member] += 1 / len(among)
    had = Counter(turn.member for turn in turns if turn.taken < turn.arrived)
    return {member: (had[member] / given[member], due[member] / given[member]) for member in had}


def utilisation(turns: Sequence[Turn], slots: int) -> float:
    """Which part of the slots was busy while anything waited."""
    spans = merged(span for found in waiting(turns).values() for span in found)
    busy = sum(
        max(0.0, min(turn.ended, last) - max(turn.started, first))
        for turn in turns
        for first, last in spans
    )
    return busy / (slots * sum(last - first for first, last in spans))
