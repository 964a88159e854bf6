"""What jobs have cost beside what the ledger says: usage, costs and budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chaos.accounting import Sums

from proxy.costs.credits import from_credits
from proxy.storage.usage import day_of

_STATES = ("completed", "failed", "cancelled")


class Cost(NamedTuple):
    """An ended job, as `GET /proxy/api/jobs/{id}` shows it: its `cost` is in millionths of a
    credit, its `day` (UTC) that of its end."""

    prompt_id: str
    member: str
    account: str
    state: str
    day: str
    cost: int


@dataclass(frozen=True)
class Spent:
    """A job of a member with a budget: its `cost`, the `day` of its end, when it was `sent`, and
    when its end was `seen` (`None` for one that was found afterwards)."""

    day: str
    sent: float
    seen: float | None
    cost: int


@dataclass(frozen=True)
class Ledger:
    """What the proxy has recorded: the rows of `GET /proxy/api/usage`, the same with `rows=costs`,
    and from the storage the ids of the history by how often they are in it, what is `reserved` of
    budgets (by member) and the number of `live` jobs."""

    usage: Sequence[Mapping[str, Any]] = ()
    costs: Sequence[Mapping[str, Any]] = ()
    history: Mapping[str, int] = field(default_factory=dict)
    reserved: Mapping[str, int] = field(default_factory=dict)
    live: int = 0


@dataclass(frozen=True)
class LedgerSums(Sums):
    """The counts of costs. The `charged_jobs`, of which some have `failed` and some were
    `cancelled`, have cost `credits`, rounded.

    `wrong_histories` are jobs that are not in the history once. `wrong_usage` are days of a member
    whose jobs or credits are not those of its jobs, `wrong_costs` days of a member and an account.
    `reservations` are members of whose budgets something is reserved though no job is under way,
    `live_jobs` those that the storage does not have as ended. `overspending` jobs were accepted
    though those that had been seen to end had cost more than the budget; `budget_never_reached` is
    1 if it refused none of the `refused_by_budget`.
    """

    FAULTS = (
        "wrong_histories",
        "wrong_usage",
        "wrong_costs",
        "reservations",
        "live_jobs",
        "overspending",
        "budget_never_reached",
    )

    charged_jobs: int
    failed: int
    cancelled: int
    credits: int
    refused_by_budget: int
    wrong_histories: int
    wrong_usage: int
    wrong_costs: int
    reservations: int
    live_jobs: int
    overspending: int
    budget_never_reached: int


def account_costs(
    jobs: Collection[Cost],
    ledger: Ledger,
    *,
    budget: int,
    spent: Collection[Spent],
    refused: int,
) -> LedgerSums:
    """Compare. `spent` are the jobs of the member with the hard `budget` (millionths of a credit),
    of which it `refused` some."""
    counted: Counter[str] = Counter(job.prompt_id for job in jobs)
    return LedgerSums(
        charged_jobs=len(jobs),
        failed=sum(job.state == "failed" for job in jobs),
        cancelled=sum(job.state == "cancelled" for job in jobs),
        credits=round(sum(job.cost for job in jobs) / 1e6),
        refused_by_budget=refused,
        wrong_histories=_differences(counted, ledger.history),
        wrong_usage=_differences(_usage_of(jobs), _usage_rows(ledger.usage)),
        wrong_costs=_differences(_costs_of(jobs), _cost_rows(ledger.costs)),
        reservations=sum(amount != 0 for amount in ledger.reserved.values()),
        live_jobs=ledger.live,
        overspending=overspending(budget, spent),
        budget_never_reached=int(refused == 0),
    )


def overspending(budget: int, spent: Collection[Spent]) -> int:
    """Return how many jobs were accepted after others of the day, which had been seen to end
    before, had cost more than the budget."""

    def cost_before(job: Spent) -> int:
        seen = [other for other in spent if other.seen is not None and other.seen < job.sent]
        return sum(other.cost for other in seen if other.day == job.day)

    return sum(cost_before(job) > budget for job in spent)


def cost_of(shown: Mapping[str, Any]) -> Cost:
    """Return a job from the answer of `GET /proxy/api/jobs/{id}`."""
    return Cost(
        shown["id"],
        shown["member"],
        shown["account"] or "",
        shown["state"],
        day_of(shown["ended"] / 1000),
        from_credits(shown["cost"]["credits"]),
    )


def _usage_of(jobs: Iterable[Cost]) -> Counter[tuple[str, ...]]:
    sums: Counter[tuple[str, ...]] = Counter()
    for job in jobs:
        sums[job.day, job.member, job.state] += 1
        sums[job.day, job.member, "credits"] += job.cost
        sums[job.member, "submitted"] += 1  # on a day that may be another one
    return sums


def _usage_rows(rows: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    sums: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        for state in _STATES:
            sums[row["day"], row["member"], state] += row[state]
        for name in ("credits_reported", "credits_estimated"):
            sums[row["day"], row["member"], "credits"] += from_credits(row[name])
        sums[row["member"], "submitted"] += row["submitted"]
    return sums


def _costs_of(jobs: Iterable[Cost]) -> Counter[tuple[str, ...]]:
    sums: Counter[tuple[str, ...]] = Counter()
    for job in jobs:
        sums[job.day, job.member, job.account] += job.cost
    return sums


def _cost_rows(rows: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    sums: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        sums[row["day"], row["member"], row["account"]] += from_credits(row["credits"])
    return sums


def _differences(one: Mapping[Any, int], other: Mapping[Any, int]) -> int:
    """Return in how many keys two sums differ; what is missing counts as 0."""
    return sum(one.get(key, 0) != other.get(key, 0) for key in one.keys() | other.keys())
