"""Delays that grow."""

from __future__ import annotations

from proxy.runtime.backoff import Backoff


def test_waits_double_up_to_the_longest_and_are_jittered_by_half() -> None:
    waits = Backoff(first=1.0, longest=4.0)
    for failures, limit in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (10_000, 4.0)]:
        drawn = [waits.after(failures) for _ in range(50)]
        assert all(limit / 2 <= wait <= limit for wait in drawn)
        assert len(set(drawn)) > 1
