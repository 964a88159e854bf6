"""An engine acts only until its term is over."""

from __future__ import annotations

import time

import pytest

from proxy.engine.term import Term
from proxy.storage.database import FencedError
from proxy.storage.leases import Lease

LEASE = Lease("engine", "one", 7)


def test_the_fence_is_that_of_the_lease() -> None:
    assert Term(LEASE).fence == LEASE.fence


def test_a_term_without_an_end_lasts_until_it_is_ended() -> None:
    term = Term(LEASE)
    term.check()
    term.end()
    assert term.over.is_set()
    with pytest.raises(FencedError):
        term.check()


def test_a_term_runs_out_by_the_clock_of_the_process() -> None:
    term = Term(LEASE, time.monotonic())
    assert not term.lasts
    with pytest.raises(FencedError):
        term.check()
