"""An account at work joins its own parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.rig import Catalog, Files
from engine.worlds import World
from yarl import URL

from proxy.cloud.client import CloudClient
from proxy.cloud.upstream import Capabilities
from proxy.engine.accounts import Account, Slots
from proxy.engine.policy import Policy
from proxy.engine.worker import AccountWorker
from proxy.sharing.loop_turns import LoopTurns
from proxy.simulator import Simulator


class CrashingCloud:
    """An account whose calls fail by a fault of the proxy."""

    base_url = URL("https://cloud.test")
    capabilities = Capabilities()

    def events(self, *_: Any) -> None:
        return

    async def cancel(self, _cloud_id: str) -> bool:
        raise RuntimeError("a fault of the proxy")


async def test_a_job_whose_cancellation_crashes_is_abandoned_all_the_same() -> None:
    cloud: Any = CrashingCloud()
    account = Account("one", cloud, "", slots=Slots(1))
    world = World(one=account)
    resources: Any = SimpleNamespace(
        files=Files(), catalog=Catalog(), packs=None, loop_turns=LoopTurns()
    )
    recorder: Any = world.recorder
    worker = AccountWorker(account, world.scheduler, world.table, recorder, resources, Policy())
    await worker.abandon("a job")


async def test_another_key_is_used_for_calls_and_makes_the_account_well(
    simulator: Simulator,
) -> None:
    client = CloudClient(simulator.base_url, "an old key")
    await client.start()
    account = Account("one", client, "an old key", slots=Slots(1))
    world = World(one=account)
    resources: Any = SimpleNamespace(
        files=Files(), catalog=Catalog(), packs=None, loop_turns=LoopTurns()
    )
    recorder: Any = world.recorder
    worker = AccountWorker(account, world.scheduler, world.table, recorder, resources, Policy())
    account.health.failed("dead_key", 0.0)
    try:
        await worker.use_key(simulator.key)
        assert (account.key, account.health.well) == (simulator.key, True)
        assert await client.jobs() == []
        assert not worker.any_running()
    finally:
        await worker.feed.close()
        await client.close()
