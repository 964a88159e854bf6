"""Notices for web pages: for half a minute, and within limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.packs import notices
from proxy.packs.notices import MAX_NOTICE_BYTES, MAX_NOTICES, NoticeLeft, Notices
from proxy.sharing.budget import MemoryBudget
from proxy.translate.errors import LocalError

MB = 1024 * 1024


@pytest.fixture
def budget() -> MemoryBudget:
    return MemoryBudget(8 * MB)


@pytest.fixture
def kept(budget: MemoryBudget) -> Iterator[Notices]:
    opened = Notices(budget)
    yield opened
    opened.close()


def arguments(found: list[NoticeLeft]) -> list[str]:
    return [notice.argument for notice in found]


async def test_a_note_is_read_by_its_member_alone(kept: Notices) -> None:
    kept.leave("ann", "refresh", {"image": "a.png"})
    (notice,) = kept.since("ann", 0)
    assert (notice.command, notice.argument) == ("refresh", '{"image": "a.png"}')
    assert kept.since("ben", 0) == []
    assert kept.since("ann", notice.at) == []


async def test_a_note_that_is_too_large_is_refused(kept: Notices) -> None:
    with pytest.raises(LocalError) as caught:
        kept.leave("ann", "refresh", "x" * MAX_NOTICE_BYTES)
    assert caught.value.kind == "too_large"
    assert kept.since("ann", 0) == []


async def test_old_notes_are_neither_read_nor_held(
    kept: Notices, budget: MemoryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.leave("ann", "refresh", "old")
    kept.leave("ann", "refresh", "new")
    now = kept.since("ann", 0)[1].at
    monkeypatch.setattr(notices.clock, "time", lambda: now + 30 - 1e-6)
    assert arguments(kept.since("ann", 0)) == ['"new"']
    monkeypatch.setattr(notices.clock, "time", lambda: now + 30)
    kept._expire("ann")  # what its timer calls
    assert kept.since("ann", 0) == []
    assert budget.held()["workflow"] == 0


async def test_the_oldest_notes_give_way_to_new_ones(kept: Notices, budget: MemoryBudget) -> None:
    for number in range(MAX_NOTICES + 5):
        kept.leave("ann", "refresh", number)
    assert len(kept.since("ann", 0)) == MAX_NOTICES
    assert kept.since("ann", 0)[-1].argument == str(MAX_NOTICES + 4)
    large = "x" * (MAX_NOTICE_BYTES - 2)
    for _ in range(MAX_NOTICES):
        kept.leave("ann", "refresh", large)
    assert 0 < budget.held()["workflow"] <= budget.limit / 2
    assert kept.since("ann", 0)[-1].argument == f'"{large}"'


async def test_notes_give_way_to_what_others_need(kept: Notices, budget: MemoryBudget) -> None:
    for _ in range(60):
        kept.leave("ann", "refresh", "x" * (MAX_NOTICE_BYTES - 2))
    for name, size in (("ben", 4 * MB), ("eve", 2 * MB), ("ivy", MB), ("joe", MB // 2)):
        budget.member(name, "body").grow(size)
    assert 0 < len(kept.since("ann", 0)) < 60
