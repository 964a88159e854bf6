"""A short run of chaos; `make chaos` is the long one."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
from chaos.run import Chaos


@pytest.mark.timeout(300)
async def test_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    logging.getLogger(__name__).warning("seed %d", seed)  # shown when the run hangs, too
    chaos = Chaos(jobs=80, clients=20, kills=2, seed=seed, folder=tmp_path)
    accounting = await chaos.run()
    assert accounting.faults() == {}, f"seed {seed}\n{accounting.table()}"
    # A job whose answer was lost, and which was given up, may turn up beside its repetition.
    assert accounting.accepted >= 80
    assert accounting.accepted == accounting.ended == accounting.on_the_cloud
