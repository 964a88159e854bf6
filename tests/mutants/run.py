"""Draw defects from the code by a seed, and say who catches each.

    PYTHONPATH=tests python -m mutants.run --seed 7 --count 300 [--rooms "engine jobs"] [--alone]

The same seed draws the same defects of the same code. `equivalent.txt` names those that change
nothing that anybody could notice, each with the reason; they are not drawn.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from mutants.copies import ROOT, Copy, digest_of
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

T = TypeVar("T")

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
    defects: Sequence[Defect], numbers: Sequence[int], processes: int, *, alone: bool
) -> list[Judged]:
    """Judge defects, and print who has caught each: what is near first, then the whole proxy."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        judges: queue.SimpleQueue[Judge] = queue.SimpleQueue()
        # All at once, since the project may change meanwhile.
        of_near, of_whole, *copies = [Copy(folder / str(place)) for place in range(processes + 2)]
        chosen = [defects[number] for number in numbers]
        seeds = (*SEEDS, *DEPLOYMENT_SEEDS)
        near = what_reaches(defects, near_tests(chosen), seeds, processes, of_near)
        for copy in copies:
            judges.put(Judge(copy, near, alone=alone))

        def by_near(judge: Judge, number: int) -> Judged:
            judged = Judged(defects[number], *judge.judged(number, defects[number]))
            if judged.first.by:
                show(judged)
            return judged

        def by_whole(judge: Judge, number: int) -> Verdict:
            return judge.judged_by_whole(number, defects[number], whole)

        results = dict(zip(numbers, _each(by_near, judges, numbers), strict=True))
        left = [number for number in numbers if not results[number].first.by]
        if left:
            whole = what_reaches(defects, [WHOLE], (), processes, of_whole)
        for number, verdict in zip(left, _each(by_whole, judges, left), strict=True):
            results[number] = results[number]._replace(first=verdict)
            show(results[number])
        return list(results.values())


def _each(
    work: Callable[[Judge, int], T], judges: queue.SimpleQueue[Judge], numbers: Sequence[int]
) -> list[T]:
    """Return what judges say of each defect; each judges one at a time."""

    def judged(number: int) -> T:
        judge = judges.get()
        try:
            return work(judge, number)
        finally:
            judges.put(judge)

    with ThreadPoolExecutor(judges.qsize()) as pool:
        return list(pool.map(judged, numbers))


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
    parser.add_argument("--only", help="those with this text in their names, instead of drawing")
    parser.add_argument("--list", action="store_true", help="only say which are drawn")
    options = parser.parse_args()
    began = time.monotonic()
    defects = all_defects(options.rooms.split())
    if options.only:
        numbers = [n for n, defect in enumerate(defects) if options.only in defect.name]
    else:
        numbers = drawn(defects, options.seed, options.count)
    print(f"{len(numbers)} of {len(defects)} defects, seed {options.seed}", flush=True)
    if options.list:
        print("\n".join(defects[number].name for number in numbers))
        return 0
    results = judge_all(defects, numbers, options.processes, alone=options.alone)
    text = "\n".join(table(results, alone=options.alone))
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} s")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        Path(summary).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
