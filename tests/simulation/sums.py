"""What must add up at the end of a run: the history, usage, costs and webhooks, and the jobs of the
cloud."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from simulation.cloud import PRICE
from simulation.database import server
from simulation.plan import BUDGET, SPENDER
from simulation.promises import BrokenPromiseError
from simulation.weather import LOSSES

if TYPE_CHECKING:
    from simulation.run import Run

#: The counts of usage of the states of jobs that have ended.
_COUNTS = {"succeeded": "completed", "failed": "failed", "cancelled": "cancelled"}


#: What lets writes fail.
_UNWRITTEN = frozenset({"unit_failed", "unit_refused", "answer_lost"})


def check_sums(run: Run) -> None:
    """Compare all numbers of each member."""
    used_again = {job.client.member for job in run.jobs if job.submitted_again}
    _check_usage(used_again)
    _check_costs(used_again)
    if not run.plan.is_long:
        _check_spending(run)
    if run.has_hook:
        _check_messages(run)


def _check_usage(used_again: set[str]) -> None:
    """What was submitted and not withdrawn has ended, once each, as the history says; that has the
    last job of those with the same id, which members have `used_again`."""
    ended = Counter(
        {
            (member, _COUNTS[state]): count
            for member, state, count in _rows(
                "SELECT member, state, count(*) FROM history GROUP BY 1, 2"
            )
        }
    )
    used = _rows(
        "SELECT member, sum(submitted), sum(completed), sum(failed), sum(cancelled) "
        "FROM usage GROUP BY member"
    )
    for member, submitted, *counts in used:
        expected = [ended[member, name] for name in _COUNTS.values()]
        if (counts != expected and member not in used_again) or submitted != sum(counts):
            about = f"{member}: {submitted} submitted, {counts} ended, in the history {expected}"
            raise BrokenPromiseError("numbers_differ", about)


def _check_costs(used_again: set[str]) -> None:
    """The ledger has what the jobs of the history have cost, each once."""
    ledger = {
        (member, node_class): (amount, nodes)
        for member, node_class, amount, nodes in _rows(
            "SELECT member, node_class, sum(amount), sum(nodes) FROM costs GROUP BY 1, 2"
        )
    }
    amounts: Counter[tuple[str, str]] = Counter()
    nodes: Counter[tuple[str, str]] = Counter()
    for member, details in _rows("SELECT member, details FROM history"):
        for charge in json.loads(details)["cost"]:
            amounts[member, charge["node_class"]] += charge["amount"]
            nodes[member, charge["node_class"]] += charge["nodes"]
    for about in ledger.keys() | nodes.keys():
        if about[0] not in used_again and ledger.get(about) != (amounts[about], nodes[about]):
            known = f"{ledger.get(about)}, of jobs {amounts[about]}, {nodes[about]}"
            raise BrokenPromiseError("numbers_differ", f"costs of {about}: {known}")


def _check_spending(run: Run) -> None:
    """What the jobs of the cloud have cost the member with a budget, whatever the ledger says. A
    node of which nothing was heard costs nothing (`docs/costs.md`)."""
    world = run.world
    charged = {
        mark: sum(charge["nodes"] for charge in json.loads(details)["cost"])
        for mark, details in _rows(
            "SELECT member || '/' || prompt_id || '/' || created_at, details FROM history"
        )
    }
    paid = [
        job.mark
        for job in world.cloud_jobs()
        if job.mark.startswith(f"{SPENDER}/") and job.status == "completed" and not job.forgotten
    ]
    is_heard = not run.plan.faults and not LOSSES & run.plan.rates.keys()
    if is_heard and (free := [mark for mark in paid if charged.get(mark) == 0]):
        raise BrokenPromiseError("numbers_differ", f"nothing is charged for {free}")
    if is_heard and SPENDER not in server().unpriced and len(paid) * PRICE > BUDGET:
        raise BrokenPromiseError("budget_passed", f"{len(paid)} jobs of {SPENDER} have run")


def _check_messages(run: Run) -> None:
    """Each job has one end in its messages, that of the history, and a start if it has run."""
    ran = {job.mark.split("/")[1] for job in run.world.cloud_jobs() if job.started is not None}
    again = {job.prompt_id for job in run.jobs if job.submitted_again}
    # An answer that cannot be written is not remembered.
    is_kept = not run.plan.faults and not _UNWRITTEN & run.plan.rates.keys()
    if is_kept and any(count > 1 for count in run.world.hooks.answered.values()):
        raise BrokenPromiseError("webhook_repeated", run.world.hooks.answered)
    for id_, state in _rows("SELECT prompt_id, state FROM history"):
        types = run.world.hooks.accepted.get(id_, Counter())
        ends = {type_ for type_ in types if type_ != "job.started"}
        if id_ in again:
            continue
        if ends != {f"job.{_COUNTS[state]}"}:
            raise BrokenPromiseError("webhook_missing", f"{id_} {state}: {dict(types)}")
        if state == "succeeded" and id_ in ran and not types["job.started"]:
            raise BrokenPromiseError("webhook_missing", f"the start of {id_}: {dict(types)}")


def _rows(statement: str) -> list[tuple[Any, ...]]:
    return list(server().raw.execute(statement).fetchall())
