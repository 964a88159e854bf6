"""Members hear how their waiting jobs move, and why they wait."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from engine.worlds import World
from jobs.hearing import Told
from jobs.samples import job
from waiting import until

from proxy.engine.fair_share import QueuePosition


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    telling = asyncio.create_task(world.news.run())
    yield world
    telling.cancel()
    await asyncio.wait([telling])


async def test_a_member_hears_when_others_no_longer_go_before_it(world: World) -> None:
    first, _, last = [
        world.add(job(name, member, order=at))
        for at, (name, member) in enumerate([("a", "anna"), ("b", "ben"), ("c", "anna")])
    ]
    world.news.announce_ahead("ben", tell=True)
    world.scheduler.dequeue(first)
    world.scheduler.dequeue(last)
    world.news.changed()
    await until(lambda: Told("ahead", "ben", count=0, tell=True) in world.received)
    assert Told("ahead", "ben", count=1, tell=True) in world.received


async def test_no_job_is_kept_by_what_was_foreseen_once_none_waits(world: World) -> None:
    waiting = world.add(job("a"))
    assert len(world.overview.jobs(None).jobs) == 1
    assert any(isinstance(each, QueuePosition) for each in gc.get_referrers(waiting))
    world.scheduler.dequeue(waiting)
    world.news.changed()
    assert not any(isinstance(each, QueuePosition) for each in gc.get_referrers(waiting))


async def test_jobs_tell_why_their_account_takes_none(world: World) -> None:
    waiting = world.add(job(accepted=True))
    world.accounts["one"].health.failed("no_credits", 0.0)
    world.news.changed()
    await until(lambda: waiting.reason == "no_credits")
