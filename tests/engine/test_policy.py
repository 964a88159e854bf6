"""How long the engine waits for the detail of a job."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from proxy.engine.policy import DetailTimeouts
from proxy.translate.snapshots import Snapshot, Status


def test_waits_begin_at_once_and_grow_up_to_the_longest() -> None:
    waits = list(islice(DetailTimeouts(first=0.5, longest=2.0).growing(), 8))
    assert waits[:2] == [0.0, 0.5]
    assert all(before <= after for before, after in pairwise(waits))
    assert waits[-1] == 2.0


@pytest.mark.parametrize(("status", "wait"), [("completed", 30.0), ("failed", 6.0)])
def test_outputs_are_awaited_longer_than_an_end_time(status: Status, wait: float) -> None:
    assert DetailTimeouts().settle_for(Snapshot("one", status, settled=False)) == wait
