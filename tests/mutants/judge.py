"""Judges defects: by the tests of their room, then the simulation, then the whole proxy.

Of each only what comes to the place of the defect is run: all else does what it did before.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


def near_tests(defects: Iterable[Defect]) -> list[str]:
    """Return the folders of the tests of the rooms of defects."""
    rooms = sorted({f"tests/{defect.room}" for defect in defects})
    return [name for name in rooms if (ROOT / name).is_dir()]


def reached(
    copy: Copy,
    defects: Sequence[Defect],
    tests: Sequence[str],
    seeds: Sequence[int],
    processes: int,
) -> Reached:
    """Run tests and seeds once in a copy with probes, and return what comes to each defect. Those
    that fail without a defect are left out."""
    by_module: defaultdict[str, list[tuple[int, Defect]]] = defaultdict(list)
    for number, defect in enumerate(defects):
        by_module[defect.module].append((number, defect))
    for module, numbered in by_module.items():
        copy.write(module, probed(copy.source(module), numbered))
    (copy.folder / "proxy" / "_hits.py").write_text(HITS)
    words = [("pytest", "-q", "-p", "mutants.probe", "-n", str(processes), *tests)]
    parts = [seeds[at : at + _PART] for at in range(0, len(seeds), _PART)]
    words += [("mutants.probe", *map(str, part)) for part in parts]
    found = Reached()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(processes) as pool:
        for ran in pool.map(lambda words: copy.run(*words, variables={FOLDER: name}), words):
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


class Judge:
    """Judges one defect after the other in a copy. With `alone` the simulation judges each, also
    where tests have caught it."""

    def __init__(self, copy: Copy, found: Reached, *, alone: bool) -> None:
        self._copy, self._found, self._alone = copy, found, alone

    def judged(self, number: int, defect: Defect) -> tuple[Verdict, Verdict | None]:
        """Return who of the near ones has caught a defect first, and what the simulation says of
        it, if it was asked."""
        with self._planted(defect):
            first = self._unit(number, defect)
            if first.by and not self._alone:
                return first, None
            simulated = self._simulated(number, defect)
            return (first if first.by else simulated), simulated

    def judged_by_whole(self, number: int, defect: Defect, found: Reached) -> Verdict:
        """Return whether the tests of the whole proxy, which come to what was `found`, catch a
        defect."""
        tests = found.tests.get(number, {})
        order = sorted(tests, key=tests.__getitem__)
        totals = accumulate(tests[test] for test in order)
        quick = [test for test, total in zip(order, totals, strict=True) if total <= _WHOLE_SECONDS]
        with self._planted(defect):
            return self._run("end-to-end", quick, _WHOLE_SECONDS)

    @contextmanager
    def _planted(self, defect: Defect) -> Iterator[None]:
        source = self._copy.source(defect.module)
        self._copy.write(defect.module, defect.planted(source))
        try:
            yield
        finally:
            self._copy.write(defect.module, source)

    def _unit(self, number: int, defect: Defect) -> Verdict:
        path = Path(defect.module)
        own = f"tests/{path.parent.parts[0]}/test_{'_'.join((*path.parent.parts[1:], path.stem))}"
        tests = self._found.tests.get(number, {})
        order = sorted(tests, key=lambda test: (not test.startswith(f"{own}.py"), tests[test]))
        return self._run("unit", order, sum(tests.values()))

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
