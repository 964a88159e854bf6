"""Planted defects, one line each: the simulation is sharp if it catches every one.

    PYTHONPATH=tests python -m simulation.mutants [NAME …]

Each is a module, a line of it, and what stands there instead. `plant` changes the module as it is
imported.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

from simulation.plan import DEPLOYMENTS

#: Within how many seeds a defect must be caught.
SEEDS = 200


class Mutant(NamedTuple):
    """A defect: in a module `old` is replaced by `new`, once. It is looked for from the seed
    `first` on; one that needs many jobs, or hours, in long runs from a seed on."""

    module: str
    old: str
    new: str
    first: int = 0
    long_from: int | None = None


MUTANTS = {
    # the lease
    "lease_of_another_taken": Mutant(
        "storage.leases", "if row.expires > now and row.holder", "if False and row.holder"
    ),
    "new_engine_does_not_look": Mutant("engine.recovery", "return Lost()", "return NotThere()"),
    "shown_job_dropped_at_a_start": Mutant(
        "engine.engine",
        "if isinstance(outcome, Lost | NotThere) and not job.accepted:",
        "if False:",
    ),
    "engine_stays_after_its_term": Mutant(
        "leader.leadership",
        "        finally:\n            term.over.set()",
        "        finally:\n            pass",
    ),
    "lease_counted_from_the_answer": Mutant(
        "leader.leadership", "began + self.length", "clock.monotonic() + self.length"
    ),
    "lease_not_renewed_at_a_start": Mutant(
        "leader.leadership",
        "await asyncio.sleep(min(self.length * _RENEWAL,",
        "await asyncio.sleep(min(self.length,",
    ),
    "check_without_effect": Mutant("engine.term", "if not self.lasts:", "if False:"),
    "term_for_ever": Mutant(
        "engine.term", "or clock.monotonic() < self.until", "or self.until > -math.inf"
    ),
    "fence_without_effect": Mutant("storage.leases", "if epoch != fence.epoch:", "if False:"),
    "end_priced_without_prices": Mutant(
        "engine.following", "catalog.fetched(_CATALOG", "catalog.wait_loaded(_CATALOG", first=30000
    ),
    # what a process answers after its term
    "older_answer_told": Mutant("leader.standby", "if leads() or answer.prepared:", "if True:"),
    "refused_although_stored": Mutant(
        "leader.standby", "elif answer.status >= 500:  # the", "elif False:  # the"
    ),
    "socket_not_connected_again": Mutant(
        "leader.passed_sockets", "found, epoch = await self._connect(request, opened)", "return"
    ),
    "socket_of_a_client_that_has_gone": Mutant(
        "leader.passed_sockets",
        "if request.transport is None or request.transport.is_closing():",
        "if False:",
    ),
    # those that the simulation has found in the product
    "lease_not_checked_when_sent": Mutant(
        "cloud.connections", "if check is not None:\n        check()", "pass"
    ),
    # what the database never takes
    "refused_value_tried_for_ever": Mutant(
        "engine.follower", "if refusals == _MAX_VALUE_REFUSALS:", "if False:"
    ),
    # the way to the cloud
    "submission_repeated_blindly": Mutant(
        "engine.submitter", "if tried.lost and (", "if False and ("
    ),
    "looks_for_two_seconds": Mutant(
        "engine.finder", "if at >= ends", "if at >= ends - self.timeout + 2.0"
    ),
    "search_given_up_at_once": Mutant("engine.finder", "if at >= ends", "if True"),
    "intent_not_on_disk": Mutant(
        "engine.preparation", "if not await self.recorder.save(job):", "if False:"
    ),
    # the table and its record
    "record_forgotten": Mutant("engine.table", "self._recorder.changed(job)", "pass"),
    "announcement_forgotten": Mutant(
        "engine.table",
        "if answers and job.accepted and not was_accepted:",
        "if False:",
    ),
    "end_told_before_its_record": Mutant(
        "engine.following",
        "ended = await self._record(job",
        "self._tell(job, ended.result); ended = await self._record(job",
    ),
    "end_not_recorded_again": Mutant(
        "engine.follower",
        "await asyncio.sleep(_RETRY.whole(failures))\n\n\nclass Starting",
        "await asyncio.sleep(3600)\n\n\nclass Starting",
    ),
    "released_by_nobody": Mutant(
        "engine.following",
        "asyncio.get_running_loop().call_later(_ANSWER_TIMEOUT, follower.release)",
        "pass",
    ),
    "stored_jobs_not_noticed": Mutant(
        "engine.engine",
        "                    self._resume_waiting(job)\n        self._unanswered",
        "                    pass\n        self._unanswered",
    ),
    "webhook_forgotten": Mutant(
        "engine.recorder", "messages.append(self.outbox.ended(job, end))", "pass"
    ),
    # slots and turns
    "slot_freed_twice": Mutant(
        "engine.scheduler",
        """        if _is_placed(job):
            self._leave(job)
            self._accounts[job.account].health.eased""",
        """        if job.account:
            self._leave(job)
            self._accounts[job.account].health.eased""",
    ),
    "slot_counted_twice": Mutant(
        "engine.scheduler", "self._on_cloud[job.member] -= 1", "self._on_cloud[job.member] -= 2"
    ),
    "slot_not_freed": Mutant(
        "engine.scheduler",
        "self._leave(job)\n            self._accounts[job.account].health.eased",
        "self._accounts[job.account].health.eased",
    ),
    "slot_freed_at_the_first_event": Mutant(
        "engine.follower", "if is_terminal(type_, data):", "if True:"
    ),
    "weight_without_effect": Mutant(
        "engine.fair_share",
        "self._starts[member] = self.now + cost / weight",
        "self._starts[member] = self.now + cost",
    ),
    "oldest_first_whoever_waits": Mutant(
        "engine.fair_share", "(self._start(member), orders[member], member)", "orders[member]"
    ),
    "number_without_effect": Mutant(
        "engine.fair_share", "return job.number, job.order, job.key", "return 0, job.order, job.key"
    ),
    "front_is_behind": Mutant(
        "storage.conditions", "return -number if self.numbering.front", "return number if True"
    ),
    "one_more_at_once": Mutant(
        "engine.scheduler", "self._on_cloud[member] >= limit", "self._on_cloud[member] > limit"
    ),
    "one_more_waits": Mutant(
        "storage.conditions", "if before >= self.max_waiting:", "if before > self.max_waiting:"
    ),
    "one_more_a_day": Mutant(
        "storage.conditions",
        '"submitted") > self.max_per_day',
        '"submitted") > self.max_per_day + 1',
    ),
    "lost_wake_up": Mutant(
        "engine.scheduler", "if len(self.queue):\n            self.turn.set()", "pass"
    ),
    "kept_jobs_have_no_slot": Mutant(
        "engine.scheduler",
        "if not _is_placed(job):\n            self._set_slot(job, SlotState.STORED)",
        "pass",
    ),
    "cancellation_swallowed": Mutant(
        "engine.follower",
        'except Exception:\n                log.exception("detail_read',
        'except BaseException:\n                log.info("detail_read',
    ),
    "end_without_a_snapshot": Mutant(
        "engine.tracker", "elif snapshot.ended and detail and snapshot.settled and", "elif"
    ),
    # budgets
    "budget_not_asked": Mutant("jobs.estimates", "if shortfall is not None:", "if False:"),
    "reservations_not_counted": Mutant(
        "costs.budgets", "- self.spent(spent) - spent.reserved", "- self.spent(spent)"
    ),
    "budget_read_before_the_transaction": Mutant(
        "storage.jobs",
        """        def work(connection: Connection) -> StoredJob:
            check_fence(connection, fence)
            number = conditions.number(connection, job.member, job.number)
            estimate = conditions.estimate(connection, job.member)
""",
        """        estimate = await self.database.read(
            lambda connection: conditions.estimate(connection, job.member)
        )

        def work(connection: Connection) -> StoredJob:
            check_fence(connection, fence)
            number = conditions.number(connection, job.member, job.number)
""",
    ),
    # what clients see
    "end_with_an_unknown_status_ignored": Mutant(
        "translate.snapshots", "if raw not in STATUSES and (", "if False and ("
    ),
    "ended_job_stays_in_the_queue": Mutant(
        "engine.table",
        "        self._live.remove(job)\n",
        "",
    ),
    "outputs_exchanged": Mutant(
        "files.naming",
        "output_record(node, item, place, cloud_name)\n            self",
        "output_record(node, item, place, self._items[0].cloud_name)\n            self",
    ),
    # what clients were told
    "usage_counted_twice": Mutant(
        "storage.jobs",
        "add_usage(connection, self.usage)\n",
        "add_usage(connection, [*self.usage, *self.usage])\n",
    ),
    "submission_without_a_fence": Mutant(
        "jobs.submission", "payload, conditions, self.fence)", "payload, conditions, None)"
    ),
    "lost_request_told_as_not_carried_out": Mutant(
        "leader.forwarding",
        "raise _no_leader() if epoch == 0 else",
        "raise _no_leader() if True else",
    ),
    "end_without_a_fence": Mutant(
        "engine.recorder", "EngineWrite(self.term.fence, [usage]", "EngineWrite(None, [usage]"
    ),
    "discard_without_a_fence": Mutant(
        "engine.recorder",
        "EngineWrite(self.term.fence, shares=self._new_shares(jobs))\n",
        "EngineWrite(None, shares=self._new_shares(jobs))\n",
    ),
    "costs_forgotten": Mutant("storage.jobs", "add_costs(connection, self.costs)", "pass"),
    "start_not_told": Mutant(
        "engine.recorder", "job.start = self.outbox.started(job)", "self.outbox.started(job)"
    ),
    "delivered_again": Mutant(
        "webhooks.delivery", "await self.deliveries.settle(claimed, attempted)", "False"
    ),
    "error_believed": Mutant("engine.submitter", "frozenset({500, 502, 504})", "frozenset()"),
    "interrupted_while_sent_runs": Mutant(
        "engine.life",
        "if job.cancel_requested or job.interrupted:",
        "if job.cancel_requested:",
    ),
    "cancelled_while_sent_runs": Mutant(
        "engine.life", "await self._workers[job.account].cancel(job.cloud_id)", "pass"
    ),
    # deployments
    "sent_again_with_another_key": Mutant(
        "cloud.v2.client",
        '(prompt.mark, "attempt")',
        '(prompt.mark, f"attempt {prompt.again}")',
        DEPLOYMENTS,
    ),
    "lost_job_goes_elsewhere": Mutant(
        "engine.submitter",
        "bound = bound or (tried.lost and not tried.last and self.cloud.may_repeat)",
        "bound = False",
        DEPLOYMENTS,
    ),
    "stream_left_open": Mutant("cloud.v2.streams", "task.cancel()", "pass", DEPLOYMENTS),
}


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with a defect."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the changed source."""
        source = Path(self.path).read_text(encoding="utf-8")
        return self.source_to_code(changed(self.mutant, source), self.path)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where the module with the defect is."""
        if fullname != f"proxy.{self._mutant.module}":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            loader = _Loader(fullname, spec.origin)
            loader.mutant = self._mutant
            spec.loader = loader
        return spec


def changed(mutant: Mutant, source: str) -> str:
    """Return a source with the defect. Raises `ValueError` if its line is not there once."""
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.module}: {mutant.old!r} is there {source.count(mutant.old)} times"
        )
    return source.replace(mutant.old, mutant.new)


def source_of(mutant: Mutant) -> str:
    """Return the source of the module, without a defect."""
    spec = importlib.util.find_spec(f"proxy.{mutant.module}")
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {mutant.module}")
    return Path(spec.origin).read_text(encoding="utf-8")


def plant(name: str) -> None:
    """Plant a defect in what is imported from now on."""
    mutant = MUTANTS[name]
    if f"proxy.{mutant.module}" in sys.modules:
        raise RuntimeError(f"proxy.{mutant.module} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))


def caught(name: str, seeds: int = SEEDS) -> str:
    """Run seeds with a defect until it is caught; return what they say, empty if it is not."""
    tests = str(Path(__file__).parents[1])
    mutant = MUTANTS[name]
    first = mutant.first if mutant.long_from is None else mutant.long_from
    options = ["--mutant", name, "--seeds", str(seeds), "--first", str(first)]
    command = [sys.executable, "-m", "simulation.simulate", *options]
    if mutant.long_from is not None:
        command.append("--long")
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": tests},
        check=False,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("seed ")]
    if ran.returncode == 1 and not lines:
        return f"does not run: {ran.stderr[-300:]}"
    return lines[0] if lines else ""


def main() -> int:
    """Look for all defects or some, and say which seed catches each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    names = options.names or list(MUTANTS)
    missed = []
    with ThreadPoolExecutor(options.processes) as pool:
        running = {pool.submit(caught, name): name for name in names}
        for done in as_completed(running):
            name, how = running[done], done.result()
            print(f"{name:34} {how[:120] or 'NOT CAUGHT'}", flush=True)
            if not how:
                missed.append(name)
    print(f"{len(names) - len(missed)} of {len(names)} planted defects were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
