"""A leader that cannot reach the cloud gives way: two processes over one database, each with a way
of its own to one cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import waiting
from cluster.forwarder import Forwarder, forwarding
from leader.processes import Candidate, candidate, standing
from structlog.testing import capture_logs
from yarl import URL

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError, CloudUnauthorized
from proxy.cloud.resilience import RetryPolicy
from proxy.leader.handover import OFFERED, WANTED, Handover, HandoverTimes
from proxy.metrics import Metrics
from proxy.runtime.supervisor import Supervisor
from proxy.simulator import Simulator
from proxy.storage.database import Database
from proxy.storage.leases import ENGINE, LeaseRepository

#: As usual, twenty times as fast; a rest is longer than any test, and a lease than any pause of it.
TIMES = HandoverTimes(
    silence=0.1, answer=1.0, outage=0.25, reply=0.5, rest=600.0, reserved=3.0, interval=0.02
)
LENGTH = 6.0
OFFERED_METRIC = "comfy_cloud_proxy_leadership_offered"


@dataclass
class Process:
    """A process with its account and its way to the cloud."""

    candidate: Candidate
    handover: Handover
    leases: LeaseRepository
    cloud: CloudClient
    way: Forwarder
    metrics: Metrics

    @property
    def is_leader(self) -> bool:
        return self.candidate.is_leader

    async def call(self) -> None:
        """Call the cloud, which may fail."""
        with suppress(CloudError):
            await self.cloud.user()

    def counted(self, direction: str) -> float | None:
        """How often the lease was given or taken, by the metrics."""
        name = "comfy_cloud_proxy_leadership_handovers_total"
        return self.metrics.registry.get_sample_value(name, {"direction": direction})

    def is_offered(self) -> bool:
        return self.metrics.registry.get_sample_value(OFFERED_METRIC) == 1

    async def look(self, supervisor: Supervisor) -> None:
        """Look for a successor in the first term."""
        term = await self.candidate.leads()
        supervisor.spawn(self.handover.look(term, [self.cloud.contact]), "find a successor")


@asynccontextmanager
async def processes(database: Database, simulator: Simulator) -> AsyncIterator[list[Process]]:
    """Two processes, the first of which leads."""
    supervisor = Supervisor()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(supervisor.close)
        both = []
        for name in ("one", "two"):
            way = await stack.enter_async_context(forwarding(simulator.base_url.port or 0))
            url = URL(f"http://127.0.0.1:{way.port}")
            cloud = CloudClient(url, simulator.key, retries=RetryPolicy(budget=0.0))
            await cloud.start()
            stack.push_async_callback(cloud.close)
            metrics, leases = Metrics(), LeaseRepository(database)
            handover = Handover(leases, {url: False}, name, metrics, times=TIMES)
            standing_one = candidate(database, supervisor, name, LENGTH, handover)
            both.append(Process(standing_one, handover, leases, cloud, way, metrics))
        await stack.enter_async_context(
            standing(supervisor, *(process.candidate for process in both))
        )
        await both[0].look(supervisor)
        yield both


async def test_a_standby_that_reaches_the_cloud_leads_instead(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        with capture_logs() as logs:
            one.way.cut()
            await one.call()
            await waiting.until(lambda: two.is_leader)
            await waiting.until(lambda: not one.is_leader)
        (given,) = (line for line in logs if line["event"] == "leadership_transferred")
        assert (given["to"], given["rest_seconds"]) == ("two", 600)
        assert (one.counted("given"), two.counted("taken")) == (1, 1)
        assert await one.leases.holder(OFFERED) is None


async def test_the_leader_stays_while_nobody_reaches_the_cloud(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        one.way.cut()
        two.way.cut()
        await one.call()
        await waiting.until(one.is_offered)
        one.way.heal()
        await waiting.until(lambda: not one.is_offered())
        assert (one.is_leader, two.is_leader) == (True, False)
        assert one.counted("given") == 0


async def test_the_leader_stays_if_it_reaches_the_cloud_again_before_the_lease_is_taken(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        one.way.cut()
        two.way.cut()
        await one.call()
        await waiting.until(one.is_offered)
        one.way.heal()
        await one.leases.acquire(WANTED, "two", 60.0)
        await waiting.until(lambda: not one.is_offered())
        assert one.is_leader
        assert one.counted("given") == 0


async def test_who_gave_the_lease_does_not_ask_for_it_again_at_once(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        one.way.cut()
        await one.call()
        await waiting.until(lambda: two.is_leader)
        one.way.heal()
        await waiting.until(lambda: one.handover.rests)
        await one.leases.acquire(OFFERED, "two", 60.0)
        await one.handover.accept()
        wanted = await one.leases.holder(WANTED)
        assert wanted is None or wanted.holder == "two"
        assert two.handover.rests, "nor is it offered again at once"


async def test_who_rests_lets_others_take_a_free_lease_first(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        assert await one.handover.may_acquire()
        one.way.cut()
        await one.call()
        await waiting.until(lambda: two.is_leader)
        await waiting.until(lambda: one.handover.rests)
        await two.candidate.leave()
        assert await one.leases.holder(ENGINE) is None
        assert not await one.handover.may_acquire()
        await waiting.until(lambda: one.is_leader)


async def test_a_standby_asks_for_an_offered_lease_only_if_it_reaches_the_cloud(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        two.way.cut()
        await one.leases.acquire(OFFERED, "one", 60.0)
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
    async with processes(database, simulator) as (one, _):
        one.cloud.use_key("another")
        with pytest.raises(CloudUnauthorized):
            await one.cloud.user()
        assert one.cloud.contact.unanswered_since is None


async def test_a_leader_that_leaves_while_its_lease_is_offered_is_followed(
    database: Database, simulator: Simulator
) -> None:
    async with processes(database, simulator) as (one, two):
        one.way.cut()
        two.way.cut()
        await one.call()
        await waiting.until(one.is_offered)
        await asyncio.sleep(0)
        await one.candidate.leave()
        await waiting.until(lambda: two.is_leader)
