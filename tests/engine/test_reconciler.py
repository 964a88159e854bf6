"""How often the jobs of an account are read, and what becomes of what is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from proxy.cloud.errors import CloudError, CloudUnreachable, refusal
from proxy.cloud.upstream import Capabilities
from proxy.engine.accounts import Reason, Slots
from proxy.engine.policy import Policy
from proxy.engine.reconciler import Reconciler
from proxy.translate.errors import LocalError
from proxy.translate.snapshots import Snapshot


@dataclass
class FakeFollower:
    """What a reconciler sees of a job and of what follows it."""

    prompt_id: str = "one"
    member: str = "anna"
    reading: bool = False
    posted: list[Any] = field(default_factory=list)
    details: int = 0
    reason: str | None = None
    read_alone_at: float = 0.0

    @property
    def follower(self) -> FakeFollower:
        return self

    def post(self, happening: Any) -> None:
        self.posted.append(happening)

    def read_detail(self) -> None:
        self.details += 1


Followers: TypeAlias = dict[str, FakeFollower]


@dataclass
class FakeTable:
    """Has the jobs that are followed, and what is shown of them."""

    followers: Followers

    def on_account(self, _account: str) -> Followers:
        return self.followers

    def show(self, job: FakeFollower, *, reason: str | None, message: None) -> None:
        job.reason = reason


@dataclass
class FakeFeed:
    connected: bool


@dataclass
class FakeAccount:
    cloud: Cloud
    slots: Slots
    name: str = "default"


@dataclass
class FakeAllocator:
    """Notes what it is told of keys."""

    received: list[str] = field(default_factory=list)

    def set_aside(self, account: str, fault: Reason, refusal: LocalError) -> None:
        self.received.append(f"{account} {fault}: {refusal.message}")

    def key_accepted(self, account: str) -> None:
        self.received.append(f"{account} accepted")


class Cloud:
    """Answers with `listed`, or with `failure`, and about a job with what is `single`; remembers
    when it was asked, and for which jobs."""

    title = "Comfy Cloud"

    def __init__(self) -> None:
        self.capabilities = Capabilities()
        self.listed: list[Snapshot] = []
        self.failure: Exception | None = None
        self.single: dict[str, Snapshot] = {}
        self.read: list[str] = []
        self.asked: list[float] = []
        self.during: Callable[[], None] = lambda: None
        self._news = asyncio.Event()

    async def live(self, _cloud_ids: Collection[str]) -> list[Snapshot]:
        self.asked.append(asyncio.get_running_loop().time())
        self._news.set()
        self.during()
        if self.failure is not None:
            raise self.failure
        return self.listed

    async def job(self, cloud_id: str, *, max_attempts: int) -> Snapshot | None:
        assert max_attempts == 1
        self.read.append(cloud_id)
        if (found := self.single.get(cloud_id)) is None:
            raise self.failure or CloudUnreachable("down")
        return found

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(60):
            while len(self.asked) < times:
                self._news.clear()
                await self._news.wait()

    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.asked, self.asked[1:], strict=False)]


def running(cloud_id: str) -> Snapshot:
    return Snapshot(cloud_id, "in_progress", settled=False)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def followers() -> Followers:
    return {}


Reconciling = Callable[..., Any]


@pytest.fixture
def allocator() -> FakeAllocator:
    return FakeAllocator()


@pytest.fixture
def reconciling(cloud: Cloud, followers: Followers, allocator: FakeAllocator) -> Reconciling:
    @asynccontextmanager
    async def start(
        *, connected: bool = True, longest_wait: float = 60.0, **waits: float
    ) -> AsyncIterator[Reconciler]:
        policy: dict[str, Any] = {"connected_wait": 30.0, "lost_wait": 0.01, **waits}
        account = FakeAccount(cloud, Slots(1))
        reconciler = Reconciler(
            account,  # type: ignore[arg-type]
            allocator,  # type: ignore[arg-type]
            FakeTable(followers),  # type: ignore[arg-type]
            FakeFeed(connected),  # type: ignore[arg-type]
            Policy(**policy),
            longest_wait=longest_wait,
        )
        task = asyncio.create_task(reconciler.run())
        try:
            yield reconciler
        finally:
            task.cancel()
            await asyncio.wait([task])

    return start


async def test_one_list_call_serves_many_jobs(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers |= {f"job-{n}": FakeFollower() for n in range(200)}
    cloud.listed = [running(cloud_id) for cloud_id in followers]
    async with reconciling() as reconciler:
        await reconciler.read()
    assert len(cloud.asked) == 1
    assert all(
        len(follower.posted) == 1 and not follower.details for follower in followers.values()
    )


async def test_a_job_that_the_list_lacks_is_read_by_itself(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers |= {
        "ended": FakeFollower(),
        "runs": FakeFollower(),
        "is read": FakeFollower(reading=True),
    }
    cloud.listed = [running("runs"), running("is read"), running("somebody else's")]
    async with reconciling() as reconciler:
        await reconciler.read()
    assert (followers["ended"].details, followers["runs"].details) == (1, 0)
    assert followers["is read"].posted == []


async def test_while_nothing_is_live_nothing_is_read(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    async with reconciling(connected=False) as reconciler:
        reconciler.read_soon()
        await asyncio.sleep(0.1)
        assert cloud.asked == []
        followers["a"] = FakeFollower()
        await cloud.until_asked(2)
        followers.clear()
        await asyncio.sleep(0.05)
        asked = len(cloud.asked)
        await asyncio.sleep(0.1)
        assert len(cloud.asked) == asked


async def test_with_the_socket_open_it_is_read_seldom_and_without_it_often(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    async with reconciling(connected=True):
        await asyncio.sleep(0.1)
        assert cloud.asked == []
    async with reconciling(connected=False):
        await cloud.until_asked(3)


async def test_waits_are_jittered(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    async with reconciling(connected=False, lost_wait=0.04):
        await cloud.until_asked(8)
    gaps = cloud.gaps()
    assert min(gaps) >= 0.02
    assert max(gaps) - min(gaps) > 0.002


async def test_a_change_of_the_socket_is_followed_by_a_reading(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    async with reconciling() as reconciler:
        await asyncio.sleep(0)
        reconciler.read_soon()
        await cloud.until_asked(1)


async def test_a_change_in_the_middle_of_a_reading_is_followed_by_another(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    async with reconciling() as reconciler:
        cloud.during = lambda: reconciler.read_soon() if len(cloud.asked) == 1 else None
        await asyncio.sleep(0)
        reconciler.read_soon()
        await cloud.until_asked(2)


async def test_readings_that_fail_are_made_ever_more_seldom(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    cloud.failure = CloudUnreachable("down")
    async with reconciling(connected=False, lost_wait=0.01, longest_wait=0.08):
        await cloud.until_asked(6)
        seldom = min(cloud.gaps()[3:])
        assert seldom >= 0.04
        cloud.failure = None
        await cloud.until_asked(27)
        assert min(cloud.gaps()[-20:]) < seldom


async def test_retry_after_is_waited_out_even_when_the_socket_comes_back(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    cloud.failure = refusal("GET /api/jobs", 429, "", 0.3)
    async with reconciling(connected=False) as reconciler:
        await cloud.until_asked(1)
        reconciler.read_soon()
        await cloud.until_asked(2)
    assert cloud.gaps()[0] >= 0.3


@pytest.mark.parametrize("failure", [CloudError("odd"), ValueError("a bug")])
async def test_no_failure_ends_it(
    reconciling: Reconciling,
    cloud: Cloud,
    followers: Followers,
    failure: Exception,
) -> None:
    followers["a"] = FakeFollower()
    cloud.failure = failure
    async with reconciling(connected=False):
        await cloud.until_asked(2)
        cloud.failure = None
        cloud.listed = [running("a")]
        await cloud.until_asked(3)
    assert followers["a"].posted


async def test_while_the_list_fails_jobs_are_read_by_themselves_in_turn(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    ids = [f"job-{n}" for n in range(10)]
    followers |= {cloud_id: FakeFollower() for cloud_id in ids}
    cloud.failure = refusal("GET /api/jobs", 500, "", None)
    cloud.single = {cloud_id: running(cloud_id) for cloud_id in ids}
    async with reconciling(lost_timeout=0.001) as reconciler:
        await reconciler.read()
        assert cloud.read == ids[:8]
        await reconciler.read()
        assert cloud.read[8:] == [*ids[8:], *ids[:6]]
    assert [snapshot.detail for snapshot in followers["job-0"].posted] == [True, True]
    assert {follower.reason for follower in followers.values()} == {None}


@pytest.mark.parametrize(("status", "calls"), [(500, 1), (401, 0), (403, 0)])
async def test_where_nothing_can_be_read_one_job_is_tried_at_most(
    reconciling: Reconciling, cloud: Cloud, followers: Followers, status: int, calls: int
) -> None:
    followers |= {"a": FakeFollower(), "b": FakeFollower()}
    cloud.failure = refusal("GET /api/jobs", status, "", None)
    async with reconciling() as reconciler:
        await reconciler.read()
    assert len(cloud.read) == calls
    assert followers["a"].reason in ("unreachable", "dead_key")


async def test_jobs_of_an_account_that_cannot_be_read_say_so_and_end_as_lost(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    followers["a"] = FakeFollower()
    cloud.failure = refusal("GET /api/jobs", 401, "", None)
    async with reconciling(connected=False, lost_timeout=0.05) as reconciler:
        await cloud.until_asked(1)
        await asyncio.sleep(0)
        assert followers["a"].reason == "dead_key"
        async with asyncio.timeout(60):
            while not followers["a"].posted:  # noqa: ASYNC110 (a list has no event)
                await asyncio.sleep(0.005)
        assert followers["a"].posted[0].lost
        assert "API key" in followers["a"].posted[0].reason
        cloud.failure, cloud.listed = None, [running("a")]
        await reconciler.read()
        assert followers["a"].reason is None


async def test_a_failure_long_ago_does_not_make_a_new_job_lost(
    reconciling: Reconciling, cloud: Cloud, followers: Followers
) -> None:
    cloud.failure = CloudUnreachable("down")
    async with reconciling(connected=False, lost_timeout=0.5) as reconciler:
        followers["a"] = FakeFollower()
        await reconciler.read()
        followers.clear()
        await asyncio.sleep(0.6)
        followers["b"] = FakeFollower()
        await reconciler.read()
    assert (followers["b"].reason, followers["b"].posted) == ("unreachable", [])


async def test_a_key_that_is_refused_is_noted_for_those_that_wait_for_the_account(
    reconciling: Reconciling, cloud: Cloud, followers: Followers, allocator: FakeAllocator
) -> None:
    followers["a"] = FakeFollower()
    async with reconciling() as reconciler:
        for status in (503, 401, 401):
            cloud.failure = refusal("GET /api/jobs", status, "", None)
            await reconciler.read()
        cloud.failure, cloud.listed = None, [running("a")]
        await reconciler.read()
        await reconciler.read()
    first, again, last = allocator.received
    assert first == again
    assert first.startswith("default dead_key: ")
    assert last == "default accepted"
