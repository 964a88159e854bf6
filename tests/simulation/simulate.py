"""Run seeds, and show what the first one that breaks a promise does.

    PYTHONPATH=tests python -m simulation.simulate --seeds 1000 [--first 0] [--processes 2]
    PYTHONPATH=tests python -m simulation.simulate --seed 17 --trace
    PYTHONPATH=tests python -m simulation.simulate --seed 17 --shrink
    PYTHONPATH=tests python -m simulation.simulate --seeds 10 --long

Ends with 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from simulation.mutants import plant
from simulation.plan import Plan, drawn, drawn_long

if TYPE_CHECKING:
    from simulation.world import Line

#: Runs of one process before it is replaced: what they leave in memory is small, but not nothing.
_RUNS_OF_A_PROCESS = 1000


class Summary(NamedTuple):
    """What came of a run, as it goes from one process to another."""

    seed: int
    broken: str
    digest: str
    steps: int
    seconds: float
    jobs: int
    terms: int


def plan_of(seed: int, *, long: bool) -> Plan:
    """Return what a seed draws."""
    return drawn_long(seed) if long else drawn(seed)


def summary_of(seed: int, *, long: bool = False) -> Summary:
    """Run a seed."""
    from simulation.run import run  # after a defect has been planted

    result = run(plan_of(seed, long=long))
    broken = "" if result.broken is None else str(result.broken)
    return Summary(
        seed, broken, result.digest, result.steps, result.seconds, result.jobs, result.terms
    )


def leave_out_the_ends() -> None:
    """Say nothing of coroutines of a run that are collected after it: they run no more."""
    sys.unraisablehook = lambda _: None
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")


def summaries(seeds: Sequence[int], processes: int, *, long: bool = False) -> Iterator[Summary]:
    """Run seeds, in several processes if there are to be more than one."""
    summary = partial(summary_of, long=long)
    if processes == 1:
        yield from map(summary, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, leave_out_the_ends, (), _RUNS_OF_A_PROCESS) as pool:
        yield from pool.imap_unordered(summary, seeds)


def shrunk(plan: Plan) -> tuple[Plan, dict[str, str]]:
    """Return the smallest plan that still breaks the same promise, and the options that make it."""
    from simulation.run import run

    def broken(candidate: Plan) -> str:
        found = run(candidate).broken
        return "" if found is None else found.name

    name = broken(plan)
    kept: dict[str, list[int] | list[str]] = {
        "faults": list(range(len(plan.faults))),
        "actions": list(range(len(plan.actions))),
        "rates": list(plan.rates),
    }
    for what, items in kept.items():
        size = max(1, len(items) // 2)
        while size:
            start = 0
            while start < len(kept[what]):
                fewer = [*kept[what][:start], *kept[what][start + size :]]
                if name and broken(plan.kept(**{**kept, what: fewer})) == name:
                    kept[what] = fewer
                else:
                    start += size
            size //= 2
    options = {f"--{what}": ",".join(map(str, items)) for what, items in kept.items()}
    return plan.kept(**kept), options


def show(trace: Collection[Line], width: int) -> None:
    """Print a trace as a table: virtual time, replica or place, job, and what happens."""
    for line in trace:
        print(f"{line.at:10.4f}  {line.place:10}  {line.job[:14]:14}  {line.what}"[:width])


def _many(options: argparse.Namespace) -> int:
    began = time.perf_counter()
    seeds = _numbers(options.only) or range(options.first, options.first + options.seeds)
    done = [0, 0.0, 0, 0, 0]
    failed: list[Summary] = []
    for summary in summaries(seeds, options.processes, long=options.long):
        for place, more in enumerate(
            (1, summary.seconds, summary.steps, summary.jobs, summary.terms)
        ):
            done[place] += more
        if summary.broken:
            failed.append(summary)
            print(f"seed {summary.seed}: {summary.broken[:600]}", flush=True)
            if len(failed) >= options.failures:
                break
        if options.progress and done[0] % options.progress == 0:
            print(_figures(done, failed, began), flush=True)
    print(_figures(done, failed, began))
    for summary in failed[:5]:
        print(f"{_command(options)} --seed {summary.seed} --trace")
    return 1 if failed else 0


def _command(options: argparse.Namespace) -> str:
    long = " --long" if options.long else ""
    return f"PYTHONPATH=tests python -m simulation.simulate{long}"


def _figures(done: list, failed: list[Summary], began: float) -> str:
    runs, seconds, steps, jobs, terms = done
    return (
        f"{runs} runs, {seconds / 3600:.1f} virtual hours, {steps:,} callbacks, {jobs} jobs, "
        f"{terms} terms, {len(failed)} failures, {time.perf_counter() - began:.0f} s"
    )


def _one(options: argparse.Namespace) -> int:
    from simulation.run import run

    plan = plan_of(options.seed, long=options.long)
    plan = plan.kept(
        actions=_numbers(options.actions),
        faults=_numbers(options.faults),
        rates=None if options.rates is None else options.rates.split(","),
    )
    if options.shrink:
        plan, arguments = shrunk(plan)
        words = " ".join(f"{name} {value or '-1'}" for name, value in arguments.items())
        print(f"{_command(options)} --seed {plan.seed} --trace {words}")
    result = run(plan)
    if options.trace:
        for what in (*plan.faults, *plan.actions, *plan.rates.items()):
            print(what)
        print(plan.clients, plan.replicas, "replicas", "alone" if plan.alone else "")
        show(result.trace, options.width)
    print(result.digest, result.broken or "kept all promises")
    return 1 if result.broken else 0


def _numbers(text: str | None) -> list[int] | None:
    return None if text is None else [int(number) for number in text.split(",")]


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--only", help="these seeds instead, with commas between")
    parser.add_argument("--long", action="store_true", help="let each run take hours")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--failures", type=int, default=1, help="end after so many")
    parser.add_argument("--progress", type=int, default=0, help="print figures after so many runs")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--trace", action="store_true", help="show what it does")
    parser.add_argument("--shrink", action="store_true", help="find the smallest plan that fails")
    parser.add_argument("--actions", help="keep these actions of its plan, by their places")
    parser.add_argument("--faults", help="keep these faults, by their places")
    parser.add_argument("--rates", help="keep these rates, by their names")
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--mutant", help="plant this defect before")
    options = parser.parse_args()
    leave_out_the_ends()
    if options.mutant:
        plant(options.mutant)
    return _many(options) if options.seed is None else _one(options)


if __name__ == "__main__":
    sys.exit(main())
