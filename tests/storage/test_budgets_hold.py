"""Whatever happens, a hard budget is passed by no more than the jobs under way."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, TypeVar

from databases import other_connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from storage.samples import PAYLOAD, ended, job

from proxy.costs.budgets import Budget, Budgets
from proxy.costs.job_cost import Charge, JobCost
from proxy.jobs.estimates import BudgetDecision, JobEstimate, OverBudgetError
from proxy.storage.conditions import Conditions, Numbering
from proxy.storage.database import Database
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.spending import Spending
from proxy.storage.usage import UsageRow, day_of

T = TypeVar("T")

REPLICAS = st.integers(0, 1)
ESTIMATES = st.sampled_from([0, 1, 7, 20, 45])
COSTS = st.sampled_from([0, 1, 5, 20, 60, 300])
PICKS = st.integers(0, 50)

_names = count(1)


class Replicas(RuleBasedStateMachine):
    """Jobs of one member at two replicas, beside a model of what is spent.

    A period is the name of a budget and the day or month that it is of.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, databases: tuple[Database, ...]) -> None:
        super().__init__()
        self.loop, self.databases = loop, databases
        self.member = f"member {next(_names)}"
        self.repositories = [JobRepository(database) for database in databases]
        self.now = datetime(2026, 11, 28, 12, tzinfo=UTC)
        self.budgets = Budgets()
        self.ids = count()
        self.live: dict[str, StoredJob] = {}
        self.spent: Counter[str] = Counter()
        #: Of each period whose budget is passed: the jobs that may still be charged to it.
        self.may_pass: defaultdict[str, set[str]] = defaultdict(set)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    @property
    def day(self) -> str:
        return day_of(self.now.timestamp())

    def period(self, budget: Budget) -> str:
        return f"{budget.name} {self.day if budget.period == 'day' else self.day[:7]}"

    @property
    def spending(self) -> Spending:
        """What the model says."""
        return Spending(
            self.spent[self.day],
            sum(amount for day, amount in self.spent.items() if day[:7] == self.day[:7]),
            sum(job.estimate for job in self.live.values()),
        )

    @initialize(day=st.sampled_from([50, 100]), month=st.sampled_from([None, 120, 400]))
    def set_budgets(self, day: int, month: int | None) -> None:
        budgets = [Budget("credits_per_day", "day", day, hard=True)]
        if month is not None:
            budgets.append(Budget("credits_per_month", "month", month, hard=True))
        self.budgets = Budgets(tuple(budgets))

    # --- what happens ----------------------------------------------------------------------

    async def insert(self, replica: int, estimate: int) -> StoredJob | OverBudgetError:
        cost = JobCost((Charge("", "estimated", estimate),))
        decision = BudgetDecision(self.day, self.budgets, JobEstimate(cost))
        conditions = Conditions(numbering=Numbering(0), decision=decision)
        new = job(str(next(self.ids)), self.member, state="received")
        try:
            return await self.repositories[replica].insert(new, PAYLOAD, conditions)
        except OverBudgetError as error:
            return error

    def picked(self, pick: int) -> StoredJob:
        """Return a live job, by its place among them."""
        return list(self.live.values())[pick % len(self.live)]

    def take(self, accepted: StoredJob) -> None:
        spending = self.spending
        assert all(budget.left(spending) >= accepted.estimate for budget in self.budgets.all)
        self.live[accepted.prompt_id] = accepted

    @rule(replica=REPLICAS, estimate=ESTIMATES)
    def submit(self, replica: int, estimate: int) -> None:
        before = self.spending
        answer = self.run(self.insert(replica, estimate))
        refused = self.budgets.shortfall(before, estimate) is not None
        assert refused == isinstance(answer, OverBudgetError)
        if isinstance(answer, StoredJob):
            self.take(answer)

    @rule(estimate=ESTIMATES, jobs=st.integers(2, 6))
    def submit_at_once(self, estimate: int, jobs: int) -> None:
        """Submit equal jobs: chance decides which are accepted, but not how many."""

        async def all_at_once() -> list[StoredJob | OverBudgetError]:
            return await asyncio.gather(
                *(self.insert(number % 2, estimate) for number in range(jobs))
            )

        for answer in self.run(all_at_once()):
            if isinstance(answer, StoredJob):
                self.take(answer)

    @precondition(lambda self: self.live)
    @rule(pick=PICKS, replica=REPLICAS, cost=COSTS)
    def end(self, pick: int, replica: int, cost: int) -> None:
        ending = self.picked(pick)
        usage = UsageRow(self.day, self.member, completed=1, credits_estimated=cost)
        entry = ended(ending, at=round(self.now.timestamp() * 1000))
        also = EngineWrite(usage=[usage])
        finish = partial(self.repositories[replica].finish, entry, also, keep=100)
        self.run(finish(budgets=lambda _: []))
        self.charge(ending, cost)

    def charge(self, ending: StoredJob, cost: int) -> None:
        """Charge a job in the model: a budget that is passed bears only what was under way."""
        before = self.spending
        for budget in self.budgets.all:
            period = self.period(budget)
            if not budget.is_reached(before):
                self.may_pass[period] = set(self.live)
            elif cost:
                assert ending.prompt_id in self.may_pass[period]
        del self.live[ending.prompt_id]
        self.spent[self.day] += cost

    @precondition(lambda self: self.live)
    @rule(pick=PICKS, replica=REPLICAS)
    def withdraw(self, pick: int, replica: int) -> None:
        gone = self.live.pop(self.picked(pick).prompt_id)
        assert self.run(self.repositories[replica].withdraw(gone.order))

    @rule(replica=REPLICAS)
    def kill(self, replica: int) -> None:
        """A replica starts again: it knows what is in the storage alone."""
        repository = self.repositories[replica] = JobRepository(self.databases[replica])
        found = self.run(repository.live(self.member))
        assert {job.prompt_id: job for job in found} == self.live

    @rule(hours=st.sampled_from([-30, -1, 1, 13, 24, 24 * 30]))
    def set_clock(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for budget in self.budgets.all:  # what is under way ends in another period now
            self.may_pass[self.period(budget)] |= set(self.live)

    # --- what holds ------------------------------------------------------------------------

    @invariant()
    def the_storage_knows_what_is_spent(self) -> None:
        stored = self.run(self.repositories[0].spending(self.day, self.member))
        assert stored.get(self.member, Spending()) == self.spending


async def test_a_hard_budget_is_passed_by_no_more_than_the_jobs_under_way(
    database: Database,
) -> None:
    loop = asyncio.get_running_loop()
    quick = settings(
        max_examples=20,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    async with other_connection(database) as other:
        machine = partial(Replicas, loop, (database, other))
        await asyncio.to_thread(run_state_machine_as_test, machine, settings=quick)
