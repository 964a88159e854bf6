"""A machine whose clock is wrong, by `TEST_CLOCK_SKEW` seconds: Python imports this at its start.

Only the time of day is; how time passes is right, as on a machine that was set wrong.
"""

from __future__ import annotations

import os
import time

_SKEW = int(os.environ.get("TEST_CLOCK_SKEW", "0"))
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _SKEW
time.time_ns = lambda: _time_ns() + _SKEW * 1_000_000_000
