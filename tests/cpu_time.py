"""Processor time of a call, for bounds that only work of another order exceeds."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(call: Callable[[], object]) -> float:
    """The least processor time of three calls: a busy machine makes single ones slower, and so does
    a search for garbage."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)
