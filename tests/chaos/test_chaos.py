"""A short run of chaos; `make chaos` has the long ones."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
from chaos.accounting import Results, account
from chaos.ledger import LedgerSums
from chaos.messages import MessageSums
from chaos.run import Chaos
from chaos.soak import MAX_GROWTH, Soak


@pytest.mark.cluster
@pytest.mark.timeout(600)
async def test_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    logging.getLogger(__name__).warning("seed %d", seed)  # shown when the run hangs, too
    chaos = Chaos(jobs=80, clients=20, kills=2, seed=seed, folder=tmp_path)
    results = await chaos.run()
    jobs, messages, ledger = results.jobs, *results.others
    assert results.faults() == {}, f"seed {seed}\n{results.table()}"
    assert jobs.accepted == jobs.ended == jobs.on_the_cloud + jobs.interrupted_before
    # A job whose answer was lost, and which was given up, may turn up beside its repetition; those
    # of the member with a budget are beside the others.
    assert jobs.accepted - jobs.late >= 80
    assert isinstance(messages, MessageSums)
    assert isinstance(ledger, LedgerSums)
    assert messages.messages > 3 * jobs.accepted
    assert messages.failed_attempts > 0
    assert ledger.charged_jobs == jobs.accepted


@pytest.fixture
def soak(tmp_path: Path) -> Soak:
    return Soak(jobs=30, clients=6, kills=0, seed=1, folder=tmp_path)


@pytest.mark.parametrize(
    ("last", "faults"),
    [(100 + MAX_GROWTH, {}), (107, {"megabytes_of_growth_in_the_last_third": 7})],
)
def test_growth_in_the_last_third_alone_is_a_fault(
    soak: Soak, last: float, faults: dict[str, int]
) -> None:
    for jobs, size in ((0, 50.0), (10, 100.0), (15, 60.0), (25, 90.0), (30, last)):
        soak.look(size, jobs)
    nothing = Results(account([], [], 0))
    assert soak.faults(nothing) == faults
