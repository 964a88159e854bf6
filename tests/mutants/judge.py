"""Judges defects: by the tests of their room, then the simulation, then the whole proxy.

Of each only what comes to the place of the defect is run: all else does what it did before.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from mutants.copies import ROOT, Copy
from mutants.defects import Defect, probed
from mutants.probe import FOLDER, HITS, TESTS
from simulation.plan import DEPLOYMENTS

#: The seeds, and those of runs with deployments, for what is about these alone.
SEEDS = range(100)
DEPLOYMENT_SEEDS = range(DEPLOYMENTS, DEPLOYMENTS + 100)
#: How many of them one process runs.
_PART = 50
WHOLE = "tests/end_to_end"

#: Seconds of a test, of seeds, and of all tests of a stage beside what they take without a defect.
#: What takes longer hangs.
_TEST_SECONDS, _SEED_SECONDS, _MORE_SECONDS = 60, 10, 60
#: How many seconds of tests of the whole proxy are run, the quickest first.
_WHOLE_SECONDS = 90.0


class Verdict(NamedTuple):
    """Who has caught a defect: `unit`, `simulation`, `end-to-end`, or nobody; and what it said."""

    by: str
    about: str = ""


@dataclass
class Reached:
    """What comes to each defect, by the numbers of these: tests with their seconds, and seeds."""

    tests: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    seeds: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def save(self, path: Path) -> None:
        """Write a file."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"tests": self.tests, "seeds": self.seeds}))

    @classmethod
    def load(cls, path: Path) -> Reached:
        """Read a file."""
        stored = json.loads(path.read_text())
        reached = cls()
        for name in ("tests", "seeds"):
            getattr(reached, name).update({int(key): stored[name][key] for key in stored[name]})
        return reached


def reached(copy: Copy, defects: Sequence[Defect], processes: int) -> Reached:
    """Run all tests and seeds once in a copy with probes, and return what comes to each defect.
    Those that fail without a defect are left out."""
    by_module: defaultdict[str, list[tuple[int, Defect]]] = defaultdict(list)
    for number, defect in enumerate(defects):
        by_module[defect.module].append((number, defect))
    for module, numbered in by_module.items():
        copy.write(module, probed(copy.source(module), numbered))
    (copy.folder / "proxy" / "_hits.py").write_text(HITS)
    rooms = [name for name in map(_tests_of, sorted({each.room for each in defects})) if name]
    found = Reached()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(processes) as pool:
        variables = {FOLDER: name}
        words = ("pytest", "-q", "-p", "mutants.probe", "-n", str(processes), *rooms, WHOLE)
        runs = [copy.run(*words, variables=variables)]
        seeds = list(map(str, (*SEEDS, *DEPLOYMENT_SEEDS)))
        parts = [seeds[at : at + _PART] for at in range(0, len(seeds), _PART)]
        runs += pool.map(lambda part: copy.run("mutants.probe", *part, variables=variables), parts)
        for ran in runs:
            if ran.code not in (0, 1):
                raise RuntimeError(f"The tests do not run without a defect: {ran.output[-2000:]}")
        _gather(Path(name), found)
    return found


def _gather(folder: Path, found: Reached) -> None:
    """Add what was written."""
    tests = _read(folder.glob("*.tests"))
    for test, one in tests.items():
        if one["passed"]:
            for number in one["hits"]:
                found.tests[number][test] = one["seconds"]
    for path in folder.glob("*.process"):
        test, *numbers = path.read_text().split("\n")
        if tests.get(test, {}).get("passed"):
            for number in filter(str.isdigit, numbers):
                found.tests[int(number)][test] = tests[test]["seconds"]
    for seed, one in _read(folder.glob("*.seeds")).items():
        if one["passed"]:
            for number in one["hits"]:
                found.seeds[number].append(int(seed))


def _read(paths: Iterable[Path]) -> dict[str, dict]:
    return {name: one for path in paths for name, one in json.loads(path.read_text()).items()}


def _tests_of(room: str) -> str | None:
    name = f"tests/{room}"
    return name if (ROOT / name).is_dir() else None


class Judge:
    """Judges one defect after the other in a copy. With `alone` the simulation judges each, also
    where tests have caught it."""

    def __init__(self, copy: Copy, found: Reached, *, alone: bool) -> None:
        self._copy, self._found, self._alone = copy, found, alone

    def judged(self, number: int, defect: Defect) -> tuple[Verdict, Verdict | None]:
        """Return who has caught a defect first, and what the simulation says of it, if it was
        asked."""
        source = self._copy.source(defect.module)
        self._copy.write(defect.module, defect.planted(source))
        try:
            first = self._unit(number, defect)
            simulated = self._simulated(number, defect) if self._alone or not first.by else None
            for stage in (lambda: simulated, lambda: self._whole(number)):
                if not first.by:
                    first = stage() or first
            return first, simulated
        finally:
            self._copy.write(defect.module, source)

    def _unit(self, number: int, defect: Defect) -> Verdict:
        path = Path(defect.module)
        own = f"tests/{path.parent.parts[0]}/test_{'_'.join((*path.parent.parts[1:], path.stem))}"
        tests = {
            test: seconds
            for test, seconds in self._found.tests.get(number, {}).items()
            if not test.startswith(WHOLE)
        }
        order = sorted(tests, key=lambda test: (not test.startswith(f"{own}.py"), tests[test]))
        return self._run("unit", order, sum(tests.values()))

    def _whole(self, number: int) -> Verdict:
        tests = self._found.tests.get(number, {})
        whole = sorted((test for test in tests if test.startswith(WHOLE)), key=tests.__getitem__)
        totals = accumulate(tests[test] for test in whole)
        quick = [test for test, total in zip(whole, totals, strict=True) if total <= _WHOLE_SECONDS]
        return self._run("end-to-end", quick, _WHOLE_SECONDS)

    def _run(self, name: str, tests: Sequence[str], seconds: float) -> Verdict:
        """Run tests until the first that fails."""
        if not tests:
            return Verdict("")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(tests))
            file.flush()
            words = ("pytest", "-x", "-q", "-p", "mutants.probe", "--timeout", str(_TEST_SECONDS))
            files = dict.fromkeys(test.partition("::")[0] for test in tests)
            ran = self._copy.run(
                *words,
                *files,
                seconds=3 * seconds + _MORE_SECONDS,
                variables={TESTS: file.name},
            )
        if ran.code == 0:
            return Verdict("")
        failed = [line for line in ran.output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return Verdict(name, (failed or ["it hangs or does not start"])[0])

    def _simulated(self, number: int, defect: Defect) -> Verdict:
        more = DEPLOYMENT_SEEDS if "/v2/" in defect.module else ()
        seeds = [seed for seed in self._found.seeds.get(number, ()) if seed in (*SEEDS, *more)]
        if not seeds:
            return Verdict("")
        words = ("simulation.simulate", "--only", ",".join(map(str, sorted(seeds))))
        ran = self._copy.run(*words, seconds=_SEED_SECONDS * len(seeds) + _MORE_SECONDS)
        if ran.code == 0:
            return Verdict("")
        broken = [line for line in ran.output.splitlines() if line.startswith("seed ")]
        return Verdict("simulation", (broken or ["it hangs or does not start"])[0])
