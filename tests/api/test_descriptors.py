"""How many connections fit into the limit of open files."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from proxy.api.descriptors import RESERVE, room_for

if sys.platform == "win32":
    pytest.skip("there is no such limit", allow_module_level=True)

import resource


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[tuple[int, int]]]:
    """Give the process limits; what it sets itself is returned."""

    def give(soft: int, hard: int) -> list[tuple[int, int]]:
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))
        return asked

    return give


Limits = Callable[[int, int], list[tuple[int, int]]]


def test_a_low_limit_is_raised_by_what_is_needed(limits: Limits) -> None:
    asked = limits(1024, 100_000)
    assert room_for(20_000) == 20_000
    assert asked == [(20_000 + RESERVE, 100_000)]


def test_a_hard_limit_means_fewer_connections(limits: Limits) -> None:
    asked = limits(1024, 4096)
    assert room_for(20_000) == 4096 - RESERVE
    assert asked == [(4096, 4096)]


def test_a_high_limit_is_left_alone(limits: Limits) -> None:
    asked = limits(50_000, 100_000)
    assert room_for(20_000) == 20_000
    assert asked == []


def test_without_a_limit_there_is_room_for_all(limits: Limits) -> None:
    limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert room_for(20_000) == 20_000


def test_a_limit_that_may_not_be_raised_is_kept_to(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(1024, resource.RLIM_INFINITY)

    def refuse(*_: object) -> None:
        raise ValueError("not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert room_for(20_000) == 1024 - RESERVE
