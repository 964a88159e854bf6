"""Many jobs without a fault: the memory of the proxy stays as it is once its caches are full.

    PYTHONPATH=tests python -m chaos.soak --jobs 30000 --clients 60

The accounting is that of chaos, without costs and webhooks, because there are no members. Ends with
1 as well if the proxy takes more memory during the last third of the jobs than it ever took before.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from chaos.accounting import Results
from chaos.run import Chaos, main
from process import before, serving

from proxy.simulator import Simulator

#: Megabytes by which the peak of the last third may exceed the peak before.
MAX_GROWTH = 5
#: Seconds between two looks.
_INTERVAL = 0.25
_PAGES_PER_MB = 1024 * 1024 / os.sysconf("SC_PAGE_SIZE")


class Soak(Chaos):
    """A run without faults. `peaks` are megabytes in each tenth of the jobs, by the tenth."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.peaks: dict[int, float] = {}
        self._peak_before = self._peak = 0.0

    async def keep_running(self, simulator: Simulator) -> None:
        """The proxy, whose memory is watched to the end of the last job."""
        async with serving(
            self._folder,
            environment={**before(simulator), "COMFY_PROXY_LOG_LEVEL": "error"},
            port=self._port,
        ) as process:
            self._open.set()  # without members
            while not self._done.is_set():
                self.look(_megabytes(process.process.pid), len(simulator.jobs))
                await asyncio.sleep(_INTERVAL)
            if (code := await process.stop()) != 0:
                raise RuntimeError(f"the proxy ended with {code}")

    def _plan_faults(self, simulator: Simulator) -> None:
        """None."""

    def look(self, size: float, jobs: int) -> None:
        """Take note of megabytes in use after so many jobs."""
        tenth = min(10 * jobs // self._jobs, 9)
        if size > self.peaks.get(tenth, 0):
            self.peaks[tenth] = size
            self.done[f"MB, tenth {tenth + 1} of the jobs"] = round(size)
        if jobs < self._jobs * 2 / 3:
            self._peak_before = max(self._peak_before, size)
        self._peak = max(self._peak, size)

    def faults(self, results: Results) -> dict[str, int]:
        """What should be zero and is not, and too much growth."""
        growth = self._peak - self._peak_before
        grown = {"megabytes_of_growth_in_the_last_third": round(growth)}
        return super().faults(results) | (grown if growth > MAX_GROWTH else {})


def _megabytes(pid: int) -> float:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) / _PAGES_PER_MB


if __name__ == "__main__":
    sys.exit(main(Soak, jobs=30_000, clients=60, kills=0, bound=7200))
