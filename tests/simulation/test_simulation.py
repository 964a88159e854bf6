"""The whole proxy in a simulated world: 200 seeds keep all promises, and each is the same twice.

`make simulate` runs more of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.mutants import MUTANTS, caught, changed, source_of
from simulation.plan import DEPLOYMENTS

TESTS = Path(__file__).parents[1]
#: The seeds that run with every change, in parts of this size.
SEEDS, PART = 200, 25
#: Those of runs with deployments.
WITH_DEPLOYMENTS = 50
#: Seeds of runs that take hours: two over midnight, and a calm one with hundreds of jobs.
LONG = (91, 153, 2789)

#: Seeds by which defects of the product were found, each with what they found. What a seed does
#: changes with the simulation: each defect has a plain test of its own as well.
FOUND = {
    7: "a frozen engine sent a job after its lease, which was checked before it waited",
    16: "a submission was repeated two seconds after its connection broke, and both arrived",
    76: "a client heard the start of a job that was withdrawn then, and no end",
    82: "a cancellation after the lease ended with a traceback",
    108: "a job that had ended came back into the queue with a reading of its account that failed",
    134: "what an engine decided after its term was written and told to nobody",
    20504: "a job without an account was looked for on all, for an hour, after a kill",
    30965: "a job that was stored by a clock an hour ahead was not noticed for an hour",
    107991: "a refused job that the database did not delete ran after another engine began",
    111799: "an accepted job that had given its slot back was dropped by the next engine",
    111824: "what was sent of a job that was withdrawn then was remembered until its socket closed",
    114797: "a job that was cancelled on the cloud before its answer came was refused",
    133393: "a withdrawn job that could not be deleted ran, and its client did not hear the end",
    143947: "a job that ran and was withdrawn before its row was written was refused",
    157854: "jobs whose prices were not known yet were sent together, and passed a hard budget",
    158760: "a job that was put off was accepted before it was stored, and a kill forgot it",
    170850: "a job that was accepted after a freeze, as its refusal came, was taken out",
    180646: "a job that was withdrawn as an engine began ended as unreadable, without a history",
    881: "a replica that stopped while its engine began, and the database was away, did not stop",
}


def simulate(*words: str, hashes: int = 0) -> str:
    """Run the simulation, and return what it prints; fail with that if a promise is broken.
    `hashes` decides the order of sets of texts."""
    command = [sys.executable, "-m", "simulation.simulate", *words]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": str(hashes)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr[-2000:]}"
    return ran.stdout


@pytest.mark.parametrize(
    "first",
    [*range(0, SEEDS, PART), *range(DEPLOYMENTS, DEPLOYMENTS + WITH_DEPLOYMENTS, PART)],
)
def test_all_promises_are_kept(first: int) -> None:
    assert " 0 failures" in simulate("--seeds", str(PART), "--first", str(first))


@pytest.mark.cluster
@pytest.mark.parametrize("seed", LONG)
def test_all_promises_are_kept_for_hours(seed: int) -> None:
    simulate("--long", "--seed", str(seed))


@pytest.mark.parametrize("seed", [6, DEPLOYMENTS + 9])
def test_a_run_is_a_function_of_its_seed(seed: int) -> None:
    """It does not depend on the order of sets of texts either."""
    first, second = (simulate("--seed", str(seed), "--trace", hashes=each) for each in (0, 1))
    assert first == second
    assert re.search(r"^ +\d+\.\d+  replica-1 +starts$", first, re.MULTILINE)


@pytest.mark.parametrize("name", MUTANTS)
def test_each_planted_defect_is_one_line_of_the_product(name: str) -> None:
    mutant = MUTANTS[name]
    compile(changed(mutant, source_of(mutant)), mutant.module, "exec")


@pytest.mark.mutant
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTANTS)
def test_each_planted_defect_is_caught(name: str) -> None:
    assert caught(name).startswith("seed ")


def test_what_found_a_defect_finds_none_now() -> None:
    simulate("--only", ",".join(map(str, FOUND)), "--failures", str(len(FOUND)))
