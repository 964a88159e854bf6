"""Draw defects from the code by a seed, and say who catches each.

    PYTHONPATH=tests python -m mutants.run --seed 7 --count 300 [--rooms "engine jobs"] [--alone]

Each is told of when it is known who has caught it. The table is printed at the end, after
`--minutes`, or when the program is interrupted.

The same seed draws the same defects of the same code. `equivalent.txt` names those that change
nothing that anybody could notice, each with the reason; they are not drawn.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from mutants.copies import ROOT, Bound, Copy, EndedError, digest_of
from mutants.defects import KINDS, Defect, defects_of
from mutants.judge import (
    DEPLOYMENT_SEEDS,
    SEEDS,
    WHOLE,
    Judge,
    Reached,
    Verdict,
    near_tests,
    reached,
)

ROOMS = (
    *("engine", "jobs", "leader", "storage", "cloud"),
    *("costs", "webhooks", "translate", "files", "edge"),
)
STAGES = ("unit", "simulation", "end-to-end")
#: What comes to each defect, by what the code and its tests are.
CACHE = ROOT / ".mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.txt")


class Judged(NamedTuple):
    """A defect, who has caught it first, and what the simulation says of it, if it was asked."""

    defect: Defect
    first: Verdict
    simulated: Verdict | None


def all_defects(rooms: Iterable[str]) -> list[Defect]:
    """Return all defects of rooms, in the order of their modules."""
    package = ROOT / "proxy"
    modules = sorted(path for room in rooms for path in (package / room).rglob("*.py"))
    return [
        defect
        for path in modules
        if path.parent.name != "migrations"
        for defect in defects_of(path.relative_to(package).as_posix(), path.read_bytes())
    ]


def equivalent() -> dict[str, str]:
    """Return the names of defects that nobody could notice, with the reasons."""
    lines = EQUIVALENT.read_text().splitlines()
    named = (line.partition(" -- ") for line in lines if line and not line.startswith("#"))
    return {name: reason for name, _, reason in named}


def drawn(defects: Sequence[Defect], seed: int, count: int) -> list[int]:
    """Return the numbers of defects: each kind is as frequent as the others, while it lasts."""
    rng, unnoticed = random.Random(f"mutants {seed}"), equivalent()
    by_kind: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for number, defect in enumerate(defects):
        if defect.name not in unnoticed:
            by_kind[defect.kind].append(number)
    numbers: list[int] = []
    while len(numbers) < count and any(by_kind.values()):
        kind = rng.choice([kind for kind in by_kind if by_kind[kind]])
        numbers.append(by_kind[kind].pop(rng.randrange(len(by_kind[kind]))))
    return numbers


def what_reaches(
    defects: Sequence[Defect],
    tests: Sequence[str],
    seeds: Sequence[int],
    processes: int,
    copy: Copy,
) -> Reached:
    """Return what of tests and seeds comes to each defect, which is kept until anything changes."""
    names = [*tests, *map(str, seeds), *(defect.name for defect in defects)]
    path = CACHE / f"{digest_of(copy.folder, names)}.json"
    if not path.exists():
        print(f"Looking what of {' '.join(tests)} comes to which place", flush=True)
        reached(copy, defects, tests, seeds, processes).save(path)
    return Reached.load(path)


def judge_all(
    defects: Sequence[Defect],
    numbers: Sequence[int],
    processes: int,
    bound: Bound,
    *,
    alone: bool,
) -> Iterator[Judged]:
    """Yield who has caught each defect, as it is known: what is near, or the whole proxy. Raises
    `EndedError`."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        # All at once, since the project may change meanwhile.
        copies = [Copy(Path(name, str(place)), bound) for place in range(2 * processes + 2)]
        of_near, of_whole, *others = copies
        near_to = near_tests(defects[number] for number in numbers)
        near = what_reaches(defects, near_to, (*SEEDS, *DEPLOYMENT_SEEDS), processes, of_near)
        judges: queue.SimpleQueue[Judge] = queue.SimpleQueue()
        for copy in others:
            judges.put(Judge(copy, defects, near, alone=alone))
        looking = threading.Lock()

        @functools.cache
        def found_of_whole() -> Reached:
            return what_reaches(defects, WHOLE, (), processes, of_whole)

        def judged(number: int) -> Judged:
            judge = judges.get()
            try:
                first, simulated = judge.judged(number)
                if not first.by:
                    with looking:  # once: then its copy has probes
                        whole = found_of_whole()
                    first = judge.judged_by_whole(number, whole)
            finally:
                judges.put(judge)
            return Judged(defects[number], first, simulated)

        with ThreadPoolExecutor(len(others)) as pool:
            try:
                for future in as_completed([pool.submit(judged, number) for number in numbers]):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


def show(judged: Judged) -> None:
    """Print who has caught a defect."""
    defect, first, simulated = judged
    by = first.by or "NOBODY"
    if simulated is not None and first.by == "unit":
        by += " and simulation" if simulated.by else ", not simulation"
    print(f"{by}: {defect.line}: {defect.name}\n    {first.about[:150]}", flush=True)


def table(results: Sequence[Judged], *, alone: bool) -> list[str]:
    """Return a table of rooms in Markdown, and those that nobody has caught."""
    names = [*STAGES, "nobody", *(["by the simulation alone"] if alone else [])]
    lines = [f"| Room | drawn | {' | '.join(names)} |", f"|---|{'---:|' * (len(names) + 1)}"]
    by_room: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for defect, first, simulated in results:
        for room in (defect.room, "all"):
            by_room[room]["drawn"] += 1
            by_room[room][first.by or "nobody"] += 1
            by_room[room]["by the simulation alone"] += bool(simulated and simulated.by)
    for room in [*filter(by_room.__contains__, ROOMS), "all"]:
        counts = by_room[room]
        lines.append(f"| {room} | {' | '.join(str(counts[name]) for name in ('drawn', *names))} |")
    survivors = sorted(defect.name for defect, first, _ in results if not first.by)
    return [*lines, "", "Caught by nobody:", "", *(f"* `{name}`" for name in survivors)]


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rooms", default=" ".join(ROOMS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="ask the simulation of each, too")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many")
    parser.add_argument("--only", help="those with this text in their names, instead of drawing")
    parser.add_argument("--list", action="store_true", help="only say which are drawn")
    options = parser.parse_args()
    began, bound = time.monotonic(), Bound(options.minutes)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, bound.end)
    defects = all_defects(options.rooms.split())
    if options.only:
        numbers = [n for n, defect in enumerate(defects) if options.only in defect.name]
    else:
        numbers = drawn(defects, options.seed, options.count)
    print(f"{len(numbers)} of {len(defects)} defects, seed {options.seed}", flush=True)
    if options.list:
        print("\n".join(defects[number].name for number in numbers))
        return 0
    results: list[Judged] = []
    with contextlib.suppress(EndedError):
        for judged in judge_all(defects, numbers, options.processes, bound, alone=options.alone):
            results.append(judged)
            show(judged)
    text = "\n".join(
        (*table(results, alone=options.alone), "", f"{len(results)} of {len(numbers)} were judged.")
    )
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} s", flush=True)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        Path(summary).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
