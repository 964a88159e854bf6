"""Judges defects: by the tests that are near, then the simulation, then the whole proxy.

Near are the tests of the room, and what else imports modules of it. Of each only what comes to the
place of the defect is run, until the first that fails: all else does what it did before. What is
most about the module, and quick, is run first.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
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
#: The tests of the whole proxy, and of its commands.
WHOLE = ("tests/end_to_end", *sorted(f"tests/{each.name}" for each in ROOT.glob("tests/test_cli*")))
#: Folders of tests that are not near to anything: they run the whole proxy, and not all at all
#: times.
_NOT_NEAR = frozenset(
    {
        *("end_to_end", "simulation", "mutants", "security", "browser", "cluster", "container"),
        *("chaos", "clone", "fidelity", "clients"),
    }
)
_IMPORTS = re.compile(r"^\s*(?:from|import) proxy\.(\w+)", re.MULTILINE)

#: Seconds of a test, of seeds, and of all tests of a stage beside what they take without a defect.
#: What takes longer hangs.
_TEST_SECONDS, _SEED_SECONDS, _MORE_SECONDS = 60, 10, 60
#: How many seconds of tests of the whole proxy are run.
_WHOLE_SECONDS = 60.0
#: Seconds that any test counts at least.
_LEAST_SECONDS = 0.02


class Verdict(NamedTuple):
    """Who has caught a defect: `unit`, `simulation`, `end-to-end`, or nobody; and what it said."""

    by: str
    about: str = ""


class Run(NamedTuple):
    """A test or a seed that fails only with a defect: its seconds, and the numbers of the defects
    that it comes to."""

    seconds: float
    hits: frozenset[int]


@dataclass
class Reached:
    """What comes to defects: tests by their names, and seeds."""

    tests: dict[str, Run] = field(default_factory=dict)
    seeds: dict[str, Run] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a file."""
        path.parent.mkdir(exist_ok=True)
        stored = {"tests": self.tests, "seeds": self.seeds}
        path.write_text(json.dumps(stored, default=sorted))

    @classmethod
    def load(cls, path: Path) -> Reached:
        """Read a file."""
        stored = json.loads(path.read_text())
        tests, seeds = (
            {name: Run(seconds, frozenset(hits)) for name, (seconds, hits) in stored[of].items()}
            for of in ("tests", "seeds")
        )
        return cls(tests, seeds)

    def tests_of(self, number: int, module: frozenset[int]) -> dict[str, float]:
        """Return the tests that come to a defect, with their seconds: first those that are quick,
        and come to little that is not in its `module`, which has the defects of these numbers."""
        found = {name: run for name, run in self.tests.items() if number in run.hits}

        def about(name: str) -> float:
            seconds, hits = found[name]
            share = len(hits & module) / len(hits)
            return max(seconds, _LEAST_SECONDS) / share

        return {name: found[name].seconds for name in sorted(found, key=about)}

    def tests_in(self, files: Collection[str]) -> dict[str, float]:
        """Return the tests in files, with their seconds."""
        return {
            name: run.seconds
            for name, run in self.tests.items()
            if name.partition("::")[0] in files
        }

    def seeds_of(self, number: int) -> list[int]:
        """Return the seeds that come to a defect, the quickest first."""
        found = {name: run.seconds for name, run in self.seeds.items() if number in run.hits}
        return [int(name) for name in sorted(found, key=found.__getitem__)]


def near_tests(defects: Iterable[Defect]) -> list[str]:
    """Return the tests that are near to defects: the folders of their rooms, and files elsewhere
    that import these."""
    rooms = {defect.room for defect in defects}
    folders = [f"tests/{room}" for room in sorted(rooms) if (ROOT / "tests" / room).is_dir()]
    files = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
    return folders + [
        str(path)
        for path in files
        if path.parts[1] not in rooms | _NOT_NEAR
        and not rooms.isdisjoint(_IMPORTS.findall((ROOT / path).read_text()))
    ]


def files_about(module: Path) -> list[str]:
    """Return the files of tests that import a module."""
    name = re.escape(".".join(("proxy", *module.with_suffix("").parts)))
    imports = re.compile(rf"^\s*(?:from|import) {name}\b", re.MULTILINE)
    paths = (ROOT / "tests").rglob("test_*.py")
    return [str(path.relative_to(ROOT)) for path in paths if imports.search(path.read_text())]


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
    # Tests wait for more than half of their time.
    words = [("pytest", "-q", "-p", "mutants.probe", "-n", str(2 * processes), *tests)]
    parts = [seeds[at : at + _PART] for at in range(0, len(seeds), _PART)]
    words += [("mutants.probe", *map(str, part)) for part in parts]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(processes) as pool:
        for ran in pool.map(lambda words: copy.run(*words, variables={FOLDER: name}), words):
            if ran.code not in (0, 1):
                raise RuntimeError(f"The tests do not run without a defect: {ran.output[-2000:]}")
        return _gathered(Path(name))


def _gathered(folder: Path) -> Reached:
    """Return what was written."""
    tests, seeds = _read(folder.glob("*.tests")), _read(folder.glob("*.seeds"))
    for path in folder.glob("*.process"):
        test, *numbers = path.read_text().split("\n")
        if test in tests:
            tests[test]["hits"] += map(int, filter(str.isdigit, numbers))
    return Reached(
        *(
            {
                name: Run(one["seconds"], frozenset(one["hits"]))
                for name, one in found.items()
                if one["passed"]
            }
            for found in (tests, seeds)
        )
    )


def _read(paths: Iterable[Path]) -> dict[str, dict]:
    return {name: one for path in paths for name, one in json.loads(path.read_text()).items()}


class Judge:
    """Judges one defect after the other in a copy. With `alone` the simulation judges each, also
    where tests have caught it."""

    def __init__(
        self, copy: Copy, defects: Sequence[Defect], found: Reached, *, alone: bool
    ) -> None:
        self._copy, self._defects, self._found, self._alone = copy, defects, found, alone

    def judged(self, number: int) -> tuple[Verdict, Verdict | None]:
        """Return who of the near ones has caught a defect first, and what the simulation says of
        it, if it was asked."""
        with self._planted(number):
            first = self._unit(number)
            if first.by and not self._alone:
                return first, None
            simulated = self._simulated(number)
            return (first if first.by else simulated), simulated

    def judged_by_whole(self, number: int, found: Reached) -> Verdict:
        """Return whether the tests of the whole proxy, which come to what was `found`, catch a
        defect."""
        tests = found.tests_of(number, self._module_of(number))
        totals = zip(tests, accumulate(tests.values()), strict=True)
        with self._planted(number):
            return self._run(
                "end-to-end",
                [test for test, total in totals if total <= _WHOLE_SECONDS],
                _WHOLE_SECONDS,
            )

    @contextmanager
    def _planted(self, number: int) -> Iterator[None]:
        defect = self._defects[number]
        source = self._copy.source(defect.module)
        self._copy.write(defect.module, defect.planted(source))
        try:
            yield
        finally:
            self._copy.write(defect.module, source)

    def _unit(self, number: int) -> Verdict:
        path = Path(self._defects[number].module)
        own = f"tests/{path.parent.parts[0]}/test_{'_'.join((*path.parent.parts[1:], path.stem))}"
        tests = self._found.tests_of(number, self._module_of(number))
        if not tests:  # processes that decode pictures reach no file in which to write this
            tests = self._found.tests_in(files_about(path))
        order = sorted(tests, key=lambda test: not test.startswith(f"{own}.py"))
        return self._run("unit", order, sum(tests.values()))

    @cached_property
    def _modules(self) -> dict[str, frozenset[int]]:
        """The numbers of the defects of each module."""
        modules: defaultdict[str, set[int]] = defaultdict(set)
        for number, defect in enumerate(self._defects):
            modules[defect.module].add(number)
        return {module: frozenset(numbers) for module, numbers in modules.items()}

    def _module_of(self, number: int) -> frozenset[int]:
        return self._modules[self._defects[number].module]

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

    def _simulated(self, number: int) -> Verdict:
        more = DEPLOYMENT_SEEDS if "/v2/" in self._defects[number].module else ()
        seeds = [seed for seed in self._found.seeds_of(number) if seed in (*SEEDS, *more)]
        if not seeds:
            return Verdict("")
        words = ("simulation.simulate", "--only", ",".join(map(str, seeds)))
        ran = self._copy.run(*words, seconds=_SEED_SECONDS * len(seeds) + _MORE_SECONDS)
        if ran.code == 0:
            return Verdict("")
        broken = [line for line in ran.output.splitlines() if line.startswith("seed ")]
        return Verdict("simulation", (broken or ["it hangs or does not start"])[0])
