"""What must add up at the end of a run: the history, usage, costs and webhooks, and the jobs of the
cloud."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from simulation.cloud import PRICE, CloudJob, CloudModel
from simulation.database import server
from simulation.plan import BUDGET, SPENDER
from simulation.promises import BrokenPromiseError

from proxy.costs.credits import from_credits
from proxy.costs.job_cost import seconds_cost

if TYPE_CHECKING:
    from simulation.run import Run

#: The counts of usage of the states of jobs that have ended.
_COUNTS = {"succeeded": "completed", "failed": "failed", "cancelled": "cancelled"}


#: What lets it go unheard that a node has run, while the connection is not lost.
UNHEARD = frozenset({"event_lost", "event_reordered", "node_unheard", "slow_call"})
#: What lets writes fail.
_UNWRITTEN = frozenset({"unit_failed", "unit_refused", "answer_lost"})


def check_sums(run: Run) -> None:
    """Compare all numbers of each member."""
    used_again = {job.client.member for job in run.jobs if job.submitted_again}
    _check_usage(used_again)
    _check_costs(used_again)
    _check_what_ran(run)
    _check_prices(run)
    if not run.plan.is_long:
        _check_budget(run)
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


def _check_what_ran(run: Run) -> None:
    """What has run on the cloud is in the history once, under the name that it has there, unless
    its client has taken it out; what is there has run under this name, or on no account."""
    entries = Counter(
        (mark, cloud_id)
        for mark, cloud_id in _rows(
            "SELECT member || '/' || prompt_id || '/' || created_at, cloud_id FROM history"
        )
    )
    unwanted = {job.prompt_id for job in run.jobs if job.unwanted or job.submitted_again}
    for job in run.world.cloud_jobs():
        is_known = job.is_found and not job.forgotten and not _is_refused(job.mark)
        if job.status != "completed" or not is_known or job.mark.split("/")[1] in unwanted:
            continue
        if entries[job.mark, job.id] != 1:
            raise BrokenPromiseError("numbers_differ", f"{job.mark} has run as {job.id}: {entries}")


def _check_prices(run: Run) -> None:
    """What is charged for a job is what it has cost on Comfy Cloud: its seconds by the clock of the
    cloud, and the partner nodes that have run, unless nothing could be heard of them."""
    rate = from_credits(run.plan.credits_per_second)
    jobs = {job.mark: job for job in _cloud_jobs(run)}
    is_heard = not UNHEARD & run.plan.rates.keys()
    for mark, details in _rows(
        "SELECT member || '/' || prompt_id || '/' || created_at, details FROM history"
    ):
        job = jobs.get(mark)
        if job is None or job.forgotten or job.ended is None or _is_refused(mark):
            continue
        charges = json.loads(details)["cost"]
        seconds = sum(charge["amount"] for charge in charges if not charge["node_class"])
        cost = 0 if job.started is None else seconds_cost(job.ended - job.started, rate)
        if seconds != cost:
            about = f"{seconds} charged for the seconds of {mark}, which cost {cost}"
            raise BrokenPromiseError("numbers_differ", about)
        nodes = sum(charge["nodes"] for charge in charges)
        began = [node for node in _partner_nodes(job) if job.started is not None]
        ran = [node for node in began if node in job.ran]
        if nodes > len(began) or (is_heard and job.status == "completed" and nodes < len(ran)):
            raise BrokenPromiseError("numbers_differ", f"{nodes} partner nodes charged of {mark}")


def _check_budget(run: Run) -> None:
    """What the jobs of the cloud have cost the member with a budget, whatever the ledger says: one
    job at most has passed it. Which nodes of a job ran that has not succeeded is known from events
    alone, which may be lost where anything fails."""
    rate = from_credits(run.plan.credits_per_second)
    price = from_credits(PRICE)
    spent, last = 0, 0
    for job in _cloud_jobs(run):
        if job.mark.startswith(f"{SPENDER}/") and job.started is not None and job.ended is not None:
            is_known = job.status == "completed" or not run.plan.faults
            partner = sum(is_known and node in job.ran for node in _partner_nodes(job)) * price
            last = partner + seconds_cost(job.ended - job.started, rate)
            spent += last
    is_priced = SPENDER not in server().unpriced and not UNHEARD & run.plan.rates.keys()
    forgotten = any(job.forgotten for job in _cloud_jobs(run))
    most = from_credits(BUDGET) + (last if rate else 0)
    if is_priced and not forgotten and spent > most:
        raise BrokenPromiseError("budget_passed", f"{SPENDER} has spent {spent}")


def _cloud_jobs(run: Run) -> list[CloudJob]:
    """Return the jobs of the accounts of Comfy Cloud, in the order in which they came."""
    clouds = run.world.clouds.values()
    jobs = [job for cloud in clouds if isinstance(cloud, CloudModel) for job in cloud.jobs.values()]
    return sorted(jobs, key=lambda job: job.created)


def _is_refused(mark: str) -> bool:
    return server().refuses(mark.split("/")[1])


def _partner_nodes(job: CloudJob) -> list[str]:
    return [id_ for id_, node in job.graph.items() if node["class_type"] == "PartnerImage"]


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
