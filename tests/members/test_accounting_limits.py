"""Limits of members: what is refused, which limit is named, and when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from databases import other_connection
from hypothesis import given
from hypothesis import strategies as st
from stopped_clock import StoppedClock, stopped

from proxy.members import accounting as limits
from proxy.members.accounting import (
    BURST_SECONDS,
    MAX_FAILURES,
    Limiter,
    Throttle,
    Usage,
)
from proxy.members.directory import Directory
from proxy.members.member import LOCAL, MAX_QUEUED, STORED_BYTES, Limits, Member
from proxy.members.rates import Bucket
from proxy.storage.database import Database
from proxy.storage.usage import UsageRepository
from proxy.translate.errors import LocalError

#: 2026-11-24 18:00 UTC.
EVENING = 1_795_543_200.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    return stopped(monkeypatch, EVENING)


@pytest.fixture
def usage(database: Database, clock: StoppedClock) -> Usage:
    return Usage(UsageRepository(database))


def limiter(usage: Usage, **limits: Any) -> Limiter:
    return Limiter(lambda name: Member(name, limits=Limits(**limits)), usage)


async def test_without_limits_nothing_is_refused(usage: Usage) -> None:
    free = limiter(usage, max_queued=None)
    for _ in range(10_000):
        free.request("alice")
    free.admit("alice", waiting=10_000, submitted=10_000)
    assert await free.upload_room("alice") is None


def test_requests_come_in_bursts_and_then_by_the_rate(usage: Usage, clock: StoppedClock) -> None:
    strict = limiter(usage, requests_per_second=2)
    for _ in range(int(2 * BURST_SECONDS)):
        strict.request("alice")
    with pytest.raises(LocalError) as refused:
        strict.request("alice")
    assert refused.value.kind == "rate_limited"
    assert refused.value.extra_info["limit"] == "requests_per_second"
    assert refused.value.retry_after == 1
    strict.request("bob")
    clock.at += 0.5
    strict.request("alice")
    with pytest.raises(LocalError):
        strict.request("alice")


@given(
    rate=st.floats(0.01, 1000),
    size=st.floats(1, 100),
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=50),
)
def test_a_bucket_never_gives_more_than_flows_in(
    rate: float, size: float, gaps: list[float]
) -> None:
    bucket = Bucket(rate, size)
    now = taken = 0.0
    for gap in gaps:
        now += gap
        wait = bucket.spend(now)
        taken += wait == 0
        assert taken <= size + rate * now + 1e-6
        assert wait <= 1 / rate


@given(rate=st.floats(0.1, 1000))
def test_whoever_waits_for_retry_after_is_let_in(rate: float) -> None:
    bucket, now = Bucket(rate, 1), 0.0
    assert bucket.spend(now) == 0
    wait = bucket.spend(now)
    assert bucket.spend(now + wait + 1e-9) == 0


def test_waiting_jobs_are_bounded(usage: Usage) -> None:
    strict = limiter(usage, max_queued=3)
    strict.admit("alice", waiting=2, submitted=100)
    with pytest.raises(LocalError) as refused:
        strict.admit("alice", waiting=3, submitted=0)
    assert (refused.value.kind, refused.value.details) == ("rate_limited", "max_queued")
    assert refused.value.retry_after


def test_the_days_jobs_are_bounded_until_midnight(usage: Usage) -> None:
    strict = limiter(usage, jobs_per_day=2)
    strict.admit("alice", waiting=100, submitted=1)
    with pytest.raises(LocalError) as refused:
        strict.admit("alice", waiting=0, submitted=2)
    error = refused.value
    assert error.extra_info["limit"] == "jobs_per_day"
    assert error.extra_info["ends_at"] == "2026-11-25T00:00:00+00:00"
    assert error.retry_after == 6 * 3600
    assert "2026-11-25 00:00 UTC" in error.message


async def test_uploads_count_unless_they_fail(usage: Usage, clock: StoppedClock) -> None:
    strict = limiter(usage, upload_bytes_per_day=100)
    async with strict.uploading("alice", 60):
        pass
    assert await strict.upload_room("alice") == 40
    with pytest.raises(ValueError, match="refused"):
        async with strict.uploading("alice", 40):
            raise ValueError("refused by the cloud")
    assert await strict.upload_room("alice") == 40
    with pytest.raises(LocalError) as refused:
        async with strict.uploading("alice", 41):
            pass
    assert (refused.value.kind, refused.value.details) == ("rate_limited", "upload_bytes_per_day")
    assert await strict.upload_room("alice") == 40
    clock.at += 6 * 3600
    assert await strict.upload_room("alice") == 100


async def test_uploads_at_two_replicas_share_the_bytes_of_the_day(database: Database) -> None:
    async with other_connection(database) as other:
        both = [
            limiter(Usage(UsageRepository(accounting)), upload_bytes_per_day=100)
            for accounting in (database, other)
        ]

        async def upload(number: int) -> bool:
            try:
                async with both[number % 2].uploading("alice", 30):
                    await asyncio.sleep(0)
            except LocalError:
                return False
            return True

        assert sum(await asyncio.gather(*map(upload, range(10)))) == 3
        assert [await accounting.upload_room("alice") for accounting in both] == [10, 10]


def test_what_is_stored_has_a_limit_of_its_own(usage: Usage) -> None:
    strict = limiter(usage, stored_bytes=100)
    assert strict.stored_bytes("alice") == 100
    refused = strict.storage_is_full("alice", 40)
    assert (refused.kind, refused.details) == ("too_large", "stored_bytes")
    assert refused.extra_info == {"limit": "stored_bytes", "value": 100}


def test_members_have_a_limit_of_what_they_store_and_the_lone_user_has_none() -> None:
    assert Limits().stored_bytes == STORED_BYTES
    assert Directory().get(LOCAL).limits.stored_bytes is None


def test_members_have_a_limit_of_waiting_jobs_and_the_lone_user_has_none() -> None:
    assert Limits().max_queued == MAX_QUEUED
    assert Directory().get(LOCAL).limits.max_queued is None


def test_after_so_many_a_minute_they_have_to_wait(clock: StoppedClock) -> None:
    slow = Throttle(MAX_FAILURES)
    assert [slow.count("192.0.2.1") for _ in range(MAX_FAILURES)] == [0] * MAX_FAILURES
    assert slow.count("192.0.2.1") == 60 // MAX_FAILURES
    assert slow.count("192.0.2.2") == 0
    clock.at += 60 / MAX_FAILURES
    assert slow.count("192.0.2.1") == 0
    assert slow.count("192.0.2.1") > 0


def test_a_64_of_ipv6_is_one_address(clock: StoppedClock) -> None:
    slow = Throttle(MAX_FAILURES)
    for number in range(MAX_FAILURES):
        assert slow.count(f"2001:db8::{number:x}") == 0
    assert slow.count("2001:db8::ffff:1") > 0
    assert slow.count("2001:db8:0:1::1") == 0


def test_memory_is_bounded() -> None:
    slow = Throttle(MAX_FAILURES)
    for number in range(limits.MAX_ADDRESSES + 100):
        slow.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(slow._buckets) == limits.MAX_ADDRESSES


def test_a_bucket_that_owes_tokens_says_when_it_owes_none() -> None:
    bucket = Bucket(rate=2, size=10)
    assert bucket.charge(0.0, 10) == 0
    assert bucket.charge(0.0, 4) == 2.0
    assert bucket.charge(1.0, 0) == 1.0
    assert bucket.charge(3.0, 0) == 0
