"""An engine that cannot reach the cloud gives way: two elections over one database, each with a way
of its own to one cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import waiting
from cluster.forwarder import Forwarder, forwarding
from proxy.bus import EventBus
from proxy.engine.election import Election
from proxy.engine.handover import OFFERED, WANTED, Handover, HandoverTimes
from proxy.jobs.engine_client import EngineClient
from structlog.testing import capture_logs
from yarl import URL

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError, CloudUnauthorized
from proxy.cloud.resilience import RetryPolicy
from proxy.engine.accounts import Account
from proxy.engine.term import Term
from proxy.jobs.messages import EngineOffered
from proxy.metrics import Metrics
from proxy.simulator import Simulator
from proxy.storage.database import Database
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.supervisor import Supervisor

#: As usual, twenty times as fast; a rest is longer than any test, and a lease than any pause of it.
TIMES = HandoverTimes(
    silence=0.1, answer=1.0, outage=0.25, reply=0.5, rest=600.0, reserved=3.0, interval=0.02
)
LENGTH = 6.0


class RecordingEngine:
    """An engine that does nothing, and tells how it ended."""

    def __init__(self, term: Term) -> None:
        self.term = term
        self.written: bool | None = None

    async def start(self) -> None:
        pass

    async def close(self, *, write: bool = True) -> None:
        self.written = write


class Replica:
    """A process as far as it wants the lease, with its account and its way to the cloud."""

    def __init__(
        self, database: Database, bus: EventBus, name: str, account: Account, way: Forwarder
    ) -> None:
        self.account, self.way, self.bus = account, way, bus
        self.engines: list[RecordingEngine] = []
        self.metrics = Metrics()
        self.leases = LeaseRepository(database)
        self.handover = Handover(
            self.leases, bus, {"one": account}, name, self.metrics, times=TIMES
        )
        make: Any = self._make
        self.election = Election(
            self.leases, EngineClient(bus), make, {}, name, LENGTH, self.handover
        )

    def _make(self, term: Term) -> RecordingEngine:
        self.engines.append(RecordingEngine(term))
        return self.engines[-1]

    async def call(self) -> None:
        """Call the cloud, which may fail."""
        with suppress(CloudError):
            await self.account.cloud.user()

    def counted(self, direction: str) -> float | None:
        """How often the engine was given or taken, by the metrics."""
        name = "comfy_cloud_proxy_engine_handovers_total"
        return self.metrics.registry.get_sample_value(name, {"direction": direction})


@asynccontextmanager
async def replicas(
    database: Database, simulator: Simulator, *buses: EventBus
) -> AsyncIterator[list[Replica]]:
    """Two replicas, the first of which runs the engine."""
    supervisor = Supervisor()
    async with AsyncExitStack() as stack:
        both = []
        for name, bus in zip(("one", "two"), buses, strict=True):
            way = await stack.enter_async_context(forwarding(simulator.base_url.port or 0))
            url = URL(f"http://127.0.0.1:{way.port}")
            cloud = CloudClient(url, simulator.key, retries=RetryPolicy(budget=0.0))
            await cloud.start()
            stack.push_async_callback(cloud.close)
            account = Account("one", cloud, simulator.key)
            both.append(Replica(database, bus, name, account, way))
        stack.push_async_callback(supervisor.close)
        for replica in both:
            await replica.election.start(supervisor)
            stack.push_async_callback(replica.election.leave)
        assert both[0].election.is_active()
        yield both


@pytest.mark.parametrize("same", [True, False], ids=["", "without-the-bus"])
async def test_the_engine_goes_to_a_replica_that_reaches_the_cloud(
    database: Database, simulator: Simulator, same: bool
) -> None:
    bus = EventBus()
    async with replicas(database, simulator, bus, bus if same else EventBus()) as (one, two):
        with capture_logs() as logs:
            one.way.cut()
            await one.call()
            await waiting.until(two.election.is_active)
            await waiting.until(lambda: not one.election.is_active())
        (given,) = (line for line in logs if line["event"] == "engine_transferred")
        assert (given["to"], given["rest_seconds"]) == ("two", 600)
        assert one.engines[0].written is True
        assert two.engines[0].term.lease.epoch > one.engines[0].term.lease.epoch
        assert (one.counted("given"), two.counted("taken")) == (1, 1)
        assert await one.leases.holder(OFFERED) is None


async def test_the_engine_stays_while_nobody_reaches_the_cloud(
    database: Database, simulator: Simulator
) -> None:
    bus = EventBus()
    offers: asyncio.Queue[object] = asyncio.Queue()
    async with replicas(database, simulator, bus, bus) as (one, two):
        bus.subscribe(
            "terms",
            lambda message: offers.put_nowait(message) if message == EngineOffered() else None,
        )
        one.way.cut()
        two.way.cut()
        await one.call()
        for _ in range(3):
            await offers.get()
        offered = "comfy_cloud_proxy_engine_offered"
        assert one.metrics.registry.get_sample_value(offered) == 1
        one.way.heal()
        await waiting.until(lambda: one.metrics.registry.get_sample_value(offered) == 0)
        assert (len(one.engines), len(two.engines)) == (1, 0)
        assert one.counted("given") == 0


async def test_the_engine_stays_if_it_reaches_the_cloud_again_before_it_is_taken(
    database: Database, simulator: Simulator
) -> None:
    bus = EventBus()
    offered = asyncio.Event()
    async with replicas(database, simulator, bus, bus) as (one, two):
        bus.subscribe(
            "terms", lambda message: offered.set() if message == EngineOffered() else None
        )
        one.way.cut()
        two.way.cut()
        await one.call()
        await offered.wait()
        one.way.heal()
        await one.leases.acquire(WANTED, "two", 60.0)
        metric = "comfy_cloud_proxy_engine_offered"
        await waiting.until(lambda: one.metrics.registry.get_sample_value(metric) == 0)
        assert one.election.is_active()
        assert one.counted("given") == 0


async def test_a_replica_that_gave_the_engine_does_not_ask_for_it_again_at_once(
    database: Database, simulator: Simulator
) -> None:
    bus = EventBus()
    async with replicas(database, simulator, bus, bus) as (one, two):
        one.way.cut()
        await one.call()
        await waiting.until(two.election.is_active)
        one.way.heal()
        await waiting.until(lambda: one.handover.rests)
        await one.leases.acquire(OFFERED, "two", 60.0)
        await one.handover.accept()
        wanted = await one.leases.holder(WANTED)
        assert wanted is None or wanted.holder == "two"
        assert two.handover.rests, "nor is it offered again at once"


async def test_a_replica_that_rests_lets_others_take_a_free_lease_first(
    database: Database, simulator: Simulator
) -> None:
    bus = EventBus()
    async with replicas(database, simulator, bus, bus) as (one, two):
        assert await one.handover.may_acquire()
        one.way.cut()
        await one.call()
        await waiting.until(two.election.is_active)
        await waiting.until(lambda: one.handover.rests)
        await two.election.leave()
        assert await one.leases.holder(ENGINE) is None
        assert not await one.handover.may_acquire()
        await waiting.until(one.election.is_active)


async def test_a_replica_asks_for_an_offered_engine_only_if_it_reaches_the_cloud(
    database: Database, simulator: Simulator
) -> None:
    bus = EventBus()
    async with replicas(database, simulator, bus, bus) as (one, two):
        await one.leases.acquire(OFFERED, "one", 60.0)
        two.way.cut()
        await two.handover.accept()
        assert await one.leases.holder(WANTED) is None
        two.way.heal()
        await two.handover.accept()
        wanted = await one.leases.holder(WANTED)
        assert wanted is not None
        assert wanted.holder == "two"


async def test_a_key_that_does_not_work_is_an_answer_of_the_cloud(
    database: Database, simulator: Simulator
) -> None:
    bus = EventBus()
    async with replicas(database, simulator, bus, bus) as (one, _):
        one.account.cloud.use_key("another")
        with pytest.raises(CloudUnauthorized):
            await one.account.cloud.user()
        assert one.account.cloud.contact.unanswered_since is None
