"""The accounts of an engine together."""

from __future__ import annotations

from pathlib import Path

import graphs
from engine.rig import running_engine

from proxy.simulator import Simulator


async def test_a_new_key_is_used_by_its_account_and_hidden_beside_the_former_one(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        workers = rig.engine._workers
        former = workers["default"].account.key
        await workers.use_key("default", "another key")
        assert workers["default"].account.key == "another key"
        assert {"another key", former} <= set(workers.secrets.values)


async def test_every_account_runs_jobs(simulator: Simulator, tmp_path: Path) -> None:
    async with (
        Simulator() as other,
        running_engine(simulator, tmp_path, others=(other,)) as rig,
    ):
        assert list(rig.engine._workers) == ["default", "other"]
        for color in range(2):
            job, _ = await rig.submit(graphs.plain(color))
            await rig.ended(job)
        assert [len(simulator.jobs), len(other.jobs)] == [1, 1]
