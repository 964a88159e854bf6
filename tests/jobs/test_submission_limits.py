"""What limits let pass before a job is stored, and what the storage is to decide."""

from __future__ import annotations

import pytest
from jobs.samples import MEMBER, Room, new

from proxy.jobs.conversion import payload_of, stored_of
from proxy.members.member import Limits, Member
from proxy.storage.conditions import DayFullError, QueueFullError
from proxy.storage.database import BusyError
from proxy.translate.errors import LocalError


def limited(room: Room, **limits: int) -> None:
    """Give the member limits."""
    known, member = room.service.submissions.limits, Member(MEMBER, limits=Limits(**limits))
    known.member = known.limiter._member = lambda _: member


async def test_a_full_queue_refuses_before_anything_is_looked_at(room: Room) -> None:
    limited(room, max_queued=1)
    await room.service.submissions.limits.check(MEMBER)
    job = new("one")
    await room.repository.insert(stored_of(job), payload_of(job.loaded))
    with pytest.raises(LocalError) as caught:
        await room.service.submissions.limits.check(MEMBER)
    assert "max_queued" in str(caught.value.details)


async def test_nothing_is_asked_of_a_busy_storage(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(room.repository.database), "busy", property(lambda _: True))
    with pytest.raises(BusyError):
        await room.service.submissions.limits.check(MEMBER)


@pytest.mark.parametrize(("limit", "counted"), [(900, 900), (5000, None)])
async def test_the_storage_counts_where_a_limit_may_be_near(
    room: Room, limit: int, counted: int | None
) -> None:
    limited(room, max_queued=limit, jobs_per_day=7)
    conditions = await room.service.submissions.limits.conditions(new("one"), None)
    assert (conditions.max_waiting, conditions.max_per_day) == (counted, 7)


@pytest.mark.parametrize("error", [DayFullError(), QueueFullError(3)])
async def test_a_limit_that_the_storage_finds_has_a_sentence(
    room: Room, error: DayFullError | QueueFullError
) -> None:
    limited(room, max_queued=3, jobs_per_day=3)
    refusal = await room.service.submissions.limits.refused(MEMBER, error)
    assert refusal.type == "limit_reached"
    assert "3" in refusal.message
