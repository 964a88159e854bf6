"""What goes to the cloud, when and where, and what becomes of a job that was not taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from jobs.samples import job
from stack import Client, running_proxy
from waiting import ids, queued, until_ended

from proxy.cloud.resilience import Backoff, CloudError, CloudUnreachable, refusal
from proxy.engine import accounts as account_health
from proxy.engine.accounts import Slots
from proxy.engine.dispatcher import output_nodes
from proxy.engine.policy import Policy
from proxy.engine.reconciler import Reconciler
from proxy.settings import AccountSettings, Secret
from proxy.simulator import HttpFault, Simulator
from proxy.translate.jobs import Snapshot

SUBMIT = "POST /api/prompt"
ONE = {"slots": 1, "slots_ahead": 0}
KNOWN: dict[str, dict[str, Any]] = {
    "SaveImage": {"output_node": True},
    "PreviewImage": {"output_node": True},
    "Fox": {"output_node": False},
}
GRAPH = {
    "1": {"class_type": "Fox"},
    "2": {"class_type": "SaveImage"},
    "3": {"class_type": "PreviewImage"},
    "4": {"class_type": "NoSuchNode"},
    "5": "no node",
}


@pytest.mark.parametrize(
    ("targets", "node_errors", "expected"),
    [
        (None, {}, ["2", "3"]),
        (["3"], {}, ["3"]),
        ([], {}, []),
        (None, {"2": {"dependent_outputs": []}}, ["3"]),
        (None, {"1": {"dependent_outputs": ["2", "3"]}}, []),
        (None, {"1": {"dependent_outputs": [3]}}, ["2"]),
    ],
)
def test_the_outputs_of_a_job_are_those_that_passed(
    targets: list[str] | None, node_errors: dict[str, Any], expected: list[str]
) -> None:
    made = job(graph=GRAPH, targets=targets)
    assert output_nodes(made, node_errors, KNOWN.get) == expected


async def test_what_has_no_slot_waits_with_us(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    running = await client.submit(gated.GRAPH)
    waiting = [await client.submit(graphs.plain(color)) for color in range(3)]
    assert len(simulator.jobs) == 1
    assert await ids(client) == waiting
    assert (await client.get("prompt"))[1] == {"exec_info": {"queue_remaining": 4}}
    opened.set()
    assert await until_ended(client, 4) == [running, *waiting]


async def test_one_more_is_sent_ahead(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    async with running_proxy(simulator, tmp_path / "data", slots=1, slots_ahead=1) as proxy:
        client = Client(session, proxy.url)
        for _ in range(4):
            await client.submit(gated.GRAPH)
        assert len(simulator.jobs) == 2


@pytest.mark.parametrize("refusal", ["PAYMENT_REQUIRED", "QUEUE_LIMIT", "UNAVAILABLE"])
async def test_a_job_keeps_its_place_while_the_account_rests(
    simulator: Simulator,
    client: Client,
    opened: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
) -> None:
    for reason in account_health.RESTS:
        monkeypatch.setitem(account_health.RESTS, reason, Backoff(0.1, 1.0))
    await client.submit(gated.GRAPH)
    waiting = [await client.submit(graphs.plain(color)) for color in range(2)]
    simulator.switches.update({"refuse_prompt": refusal})
    opened.set()
    await simulator.wait_for_calls(SUBMIT, 3)
    await until_ended(client, 1)
    assert await queued(client) == waiting
    simulator.switches.refuse_prompt = None
    assert (await until_ended(client, 3))[1:] == waiting


async def test_a_new_job_tries_a_resting_account_and_tells_its_client_why_it_rests(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    waiting = await client.submit(graphs.plain())
    simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
    opened.set()
    await simulator.wait_for_calls(SUBMIT, 2)
    await until_ended(client, 1)
    status, told = await client.post("prompt", {"prompt": graphs.plain(1)})
    assert (status, told["error"]["type"]) == (400, "PAYMENT_REQUIRED")
    assert await queued(client) == [waiting]


async def test_a_job_moves_to_the_account_that_takes_it(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as other:
        accounts = [
            AccountSettings(
                name="one", base_url=simulator.base_url, key=Secret(simulator.key), slots=1
            ),
            AccountSettings(name="two", base_url=other.base_url, key=Secret(other.key), slots=1),
        ]
        async with running_proxy(
            simulator, tmp_path / "data", accounts=accounts, slots_ahead=0
        ) as proxy:
            client = Client(session, proxy.url)
            for _ in range(2):
                await client.submit(gated.GRAPH)
            assert (len(simulator.jobs), len(other.jobs)) == (1, 1)
            waiting = [await client.submit(graphs.plain(color)) for color in range(3)]
            simulator.switches.refuse_prompt = "PAYMENT_REQUIRED"
            opened.set()
            assert set(waiting) <= set(await until_ended(client, 5))
            assert (len(simulator.jobs), len(other.jobs)) == (1, 4)


async def test_a_cancel_while_the_job_is_being_sent_reaches_the_cloud_once(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    sent = await client.submit(graphs.waiting())
    simulator.switches.late_answer = 0.5
    opened.set()
    await simulator.signal.until(lambda: len(simulator.jobs) == 2, 10)
    status, answer = await client.post(f"api/jobs/{sent}/cancel")
    assert (status, answer) == (200, {"cancelled": True})
    assert await ids(client) == []
    job = list(simulator.jobs.values())[1]
    await simulator.signal.until(lambda: job.status == "cancelled", 10)
    assert simulator.calls["POST /api/jobs/{id}/cancel"] == 1
    simulator.switches.late_answer = 0.0
    assert (await client.ended(sent))["status"]["messages"][-1][0] == "execution_interrupted"
    after = await client.submit(graphs.plain())
    assert after in await until_ended(client, 3)


async def test_an_answer_that_got_lost_is_found_again_for_waiting_jobs_too(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    await client.submit(gated.GRAPH)
    simulator.faults.add(HttpFault(SUBMIT, reset=True, processed=True))
    await client.submit(graphs.plain())
    opened.set()
    await until_ended(client, 2)
    assert len(simulator.jobs) == 2


@dataclass
class FakeRunner:
    """What a reconciler sees of a runner."""

    reading: bool = False
    posted: list[Any] = field(default_factory=list)
    details: int = 0
    reason: str | None = None

    def explain(self, reason: str | None) -> None:
        self.reason = reason

    def post(self, happening: Any) -> None:
        self.posted.append(happening)

    def read_detail(self) -> None:
        self.details += 1


@dataclass
class FakeJob:
    """A job with such a runner."""

    runner: FakeRunner
    prompt_id: str = "one"
    member: str = "local"


class Runners(dict[str, FakeRunner]):
    """Runners by cloud id, of which the reconciler sees the jobs."""

    jobs: dict[str, FakeJob]

    def __init__(self) -> None:
        super().__init__()
        self.jobs = {}

    def __setitem__(self, cloud_id: str, runner: FakeRunner) -> None:
        super().__setitem__(cloud_id, runner)
        self.jobs[cloud_id] = FakeJob(runner)

    def __ior__(self, more: Any) -> Runners:  # type: ignore[override,misc]
        for cloud_id, runner in more.items():
            self[cloud_id] = runner
        return self

    def clear(self) -> None:
        super().clear()
        self.jobs.clear()


@dataclass
class FakeSocket:
    connected: bool


@dataclass
class FakeAccount:
    cloud: Cloud
    slots: Slots


class Cloud:
    """Answers with `listed`, or with `failure`; remembers when it was asked."""

    def __init__(self) -> None:
        self.listed: list[Snapshot] = []
        self.failure: Exception | None = None
        self.asked: list[float] = []
        self.during: Callable[[], None] = lambda: None
        self._news = asyncio.Event()

    async def jobs(
        self, statuses: Iterable[str] = (), *, limit: int | None = None
    ) -> list[Snapshot]:
        assert tuple(statuses) == ("pending", "in_progress")
        self.asked.append(asyncio.get_running_loop().time())
        self._news.set()
        self.during()
        if self.failure is not None:
            raise self.failure
        return self.listed

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
def runners() -> Runners:
    return Runners()


Reconciling = Callable[..., Any]


@pytest.fixture
def reconciling(cloud: Cloud, runners: Runners) -> Reconciling:
    @asynccontextmanager
    async def start(
        *, connected: bool = True, longest_wait: float = 60.0, **waits: float
    ) -> AsyncIterator[Reconciler]:
        policy: dict[str, Any] = {"connected_wait": 30.0, "lost_wait": 0.01, **waits}
        account = FakeAccount(cloud, Slots(1))
        reconciler = Reconciler(
            account,  # type: ignore[arg-type]
            runners.jobs,  # type: ignore[arg-type]
            FakeSocket(connected),  # type: ignore[arg-type]
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
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners |= {f"job-{n}": FakeRunner() for n in range(200)}
    cloud.listed = [running(cloud_id) for cloud_id in runners]
    async with reconciling() as reconciler:
        await reconciler.read()
    assert len(cloud.asked) == 1
    assert all(len(runner.posted) == 1 and not runner.details for runner in runners.values())


async def test_a_job_that_the_list_lacks_is_read_by_itself(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners |= {"ended": FakeRunner(), "runs": FakeRunner(), "is read": FakeRunner(reading=True)}
    cloud.listed = [running("runs"), running("is read"), running("somebody else's")]
    async with reconciling() as reconciler:
        await reconciler.read()
    assert (runners["ended"].details, runners["runs"].details) == (1, 0)
    assert runners["is read"].posted == []


async def test_while_nothing_is_live_nothing_is_read(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    async with reconciling(connected=False) as reconciler:
        reconciler.read_soon()
        await asyncio.sleep(0.1)
        assert cloud.asked == []
        runners["a"] = FakeRunner()
        reconciler.job_added()
        await cloud.until_asked(2)
        runners.clear()
        await asyncio.sleep(0.05)
        asked = len(cloud.asked)
        await asyncio.sleep(0.1)
        assert len(cloud.asked) == asked


async def test_with_the_socket_open_it_is_read_seldom_and_without_it_often(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners["a"] = FakeRunner()
    async with reconciling(connected=True):
        await asyncio.sleep(0.1)
        assert cloud.asked == []
    async with reconciling(connected=False):
        await cloud.until_asked(3)


async def test_waits_are_jittered(reconciling: Reconciling, cloud: Cloud, runners: Runners) -> None:
    runners["a"] = FakeRunner()
    async with reconciling(connected=False, lost_wait=0.04):
        await cloud.until_asked(8)
    gaps = cloud.gaps()
    assert min(gaps) >= 0.02
    assert max(gaps) - min(gaps) > 0.002


async def test_a_change_of_the_socket_is_followed_by_a_reading(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners["a"] = FakeRunner()
    async with reconciling() as reconciler:
        await asyncio.sleep(0)
        reconciler.read_soon()
        await cloud.until_asked(1)


async def test_a_change_in_the_middle_of_a_reading_is_followed_by_another(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners["a"] = FakeRunner()
    async with reconciling() as reconciler:
        cloud.during = lambda: reconciler.read_soon() if len(cloud.asked) == 1 else None
        await asyncio.sleep(0)
        reconciler.read_soon()
        await cloud.until_asked(2)


async def test_readings_that_fail_are_made_ever_more_seldom(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners["a"] = FakeRunner()
    cloud.failure = CloudUnreachable("down")
    async with reconciling(connected=False, lost_wait=0.01, longest_wait=0.08):
        await cloud.until_asked(6)
        assert min(cloud.gaps()[3:]) >= 0.04
        cloud.failure = None
        await cloud.until_asked(27)
        assert min(cloud.gaps()[-20:]) < 0.04


async def test_retry_after_is_waited_out_even_when_the_socket_comes_back(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners["a"] = FakeRunner()
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
    runners: Runners,
    failure: Exception,
) -> None:
    runners["a"] = FakeRunner()
    cloud.failure = failure
    async with reconciling(connected=False):
        await cloud.until_asked(2)
        cloud.failure = None
        cloud.listed = [running("a")]
        await cloud.until_asked(3)
    assert runners["a"].posted


async def test_jobs_of_an_account_that_cannot_be_read_say_so_and_end_as_lost(
    reconciling: Reconciling, cloud: Cloud, runners: Runners
) -> None:
    runners["a"] = FakeRunner()
    cloud.failure = refusal("GET /api/jobs", 401, "", None)
    async with reconciling(connected=False, lost_timeout=0.05) as reconciler:
        await cloud.until_asked(1)
        await asyncio.sleep(0)
        assert runners["a"].reason == "dead_key"
        async with asyncio.timeout(60):
            while not runners["a"].posted:  # noqa: ASYNC110 (a list has no event)
                await asyncio.sleep(0.005)
        assert runners["a"].posted[0].lost
        assert "API key" in runners["a"].posted[0].reason
        cloud.failure, cloud.listed = None, [running("a")]
        await reconciler.read()
        assert runners["a"].reason is None
