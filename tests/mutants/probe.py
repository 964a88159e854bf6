"""Tells which tests and seeds come to which defects, in a copy of the project with probes.

It is a plug-in of pytest (`-p mutants.probe`), which writes what each test has come to, or runs
only the tests that a file names, in its order. As a program it runs seeds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

#: Where what is seen is written, and the file that names tests.
FOLDER, TESTS = "MUTANTS_HITS", "MUTANTS_TESTS"

#: The module in the copy that probes call. A process that a test starts writes what it comes to at
#: once: it may be killed.
HITS = """
import os
seen = set()
_test, _folder = os.environ.get("PYTEST_CURRENT_TEST"), os.environ.get("MUTANTS_HITS")
_file = None
if _test and _folder:
    _file = open(os.path.join(_folder, f"{os.getpid()}.process"), "a", buffering=1)
    _file.write(_test.rpartition(" (")[0] + "\\n")
def hit(number):
    if number not in seen:
        seen.add(number)
        if _file is not None:
            _file.write(f"{number}\\n")
    return True
"""

_found: dict[str, dict] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Take what a test comes to."""
    if FOLDER not in os.environ:
        return (yield)
    seen = importlib.import_module("proxy._hits").seen
    seen.clear()
    result = yield
    known = _found.setdefault(item.nodeid, {"seconds": 0.0, "passed": True})
    known["hits"] = sorted(seen)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take how long a test takes, and whether it passes."""
    known = _found.setdefault(report.nodeid, {"seconds": 0.0, "passed": True, "hits": []})
    known["seconds"] += report.duration
    known["passed"] &= not report.failed


def pytest_sessionfinish() -> None:
    """Write what was seen; each worker has its file."""
    if folder := os.environ.get(FOLDER):
        name = os.environ.get("PYTEST_XDIST_WORKER", "main")
        seen = {test: found for test, found in _found.items() if "hits" in found}
        Path(folder, f"{name}.tests").write_text(json.dumps(seen))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that a file names, in its order."""
    if file := os.environ.get(TESTS):
        by_id = {item.nodeid: item for item in items}
        items[:] = [by_id[name] for name in Path(file).read_text().splitlines() if name in by_id]


def run_seeds(seeds: Sequence[int]) -> None:
    """Run seeds, and write what each comes to."""
    from simulation.simulate import leave_out_the_ends, summary_of

    from proxy import _hits  # type: ignore[attr-defined]

    leave_out_the_ends()
    found = {}
    for seed in seeds:
        _hits.seen.clear()
        began = time.process_time()
        summary = summary_of(seed)
        found[str(seed)] = {
            "seconds": time.process_time() - began,
            "passed": not summary.broken,
            "hits": sorted(_hits.seen),
        }
    Path(os.environ[FOLDER], f"{seeds[0]}.seeds").write_text(json.dumps(found))


if __name__ == "__main__":
    run_seeds([int(seed) for seed in sys.argv[1:]])
