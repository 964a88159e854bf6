"""What waits, and whose turn it is, by table and by property."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.samples import job

from proxy.catalog.owners import Needs
from proxy.costs.budgets import Budget, Budgets
from proxy.engine.accounts import Account, Slots
from proxy.engine.fair_share import FairShare, JobQueue, MemberQueue
from proxy.engine.member_spending import MemberSpending
from proxy.engine.outcomes import OutOfMemory
from proxy.engine.scheduler import Scheduler
from proxy.members.member import Limits, Member
from proxy.storage.shares import Share, Shares
from proxy.storage.spending import Spending

WEIGHTS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1
)


def serve(turns: FairShare, weights: dict[str, float], times: int) -> list[str]:
    """All members always have jobs; whom `times` turns go to."""
    served = []
    claims = {member: at for at, (member, weight) in enumerate(weights.items())}
    for _ in range(times):
        member = turns.choose(claims)
        assert member is not None
        turns.charge(member, weights[member])
        served.append(member)
    return served


def test_equal_members_take_turns() -> None:
    assert serve(FairShare(), {"a": 1.0, "b": 1.0}, 6) == ["a", "b"] * 3


def test_nobody_wants_anything() -> None:
    assert FairShare().choose({}) is None


@given(WEIGHTS)
def test_shares_converge_to_the_weights(weights: dict[str, float]) -> None:
    rounds = 40
    served = Counter(serve(FairShare(), weights, int(rounds * sum(weights.values()))))
    for member, weight in weights.items():
        assert abs(served[member] - rounds * weight) <= 1 + len(weights)


@given(WEIGHTS)
def test_nobody_starves(weights: dict[str, float]) -> None:
    served = serve(FairShare(), weights, 400)
    for member, weight in weights.items():
        positions = [-1, *(at for at, name in enumerate(served) if name == member)]
        longest = max(after - before for before, after in pairwise(positions))
        assert longest <= sum(weights.values()) / weight + len(weights) + 1


@given(st.lists(st.sampled_from(["come", "serve", "leave"]), max_size=60), WEIGHTS)
def test_the_same_happenings_give_the_same_order(
    happenings: list[str], weights: dict[str, float]
) -> None:
    def run() -> list[str | None]:
        turns, here, order, served = FairShare(), {}, count(), []
        for at, what in enumerate(happenings):
            member = sorted(weights)[at % len(weights)]
            if what == "come":
                here[member] = next(order)
            elif what == "leave":
                here.pop(member, None)
            elif (chosen := turns.choose(here)) is not None:
                turns.charge(chosen, weights[chosen])
                served.append(chosen)
        return served

    assert run() == run()


def test_idle_time_gives_no_credit() -> None:
    turns = FairShare()
    serve(turns, {"a": 1.0}, 50)
    assert serve(turns, {"a": 1.0, "b": 1.0}, 6).count("b") == 3


def test_a_turn_that_was_not_used_is_given_back() -> None:
    turns = FairShare()
    cost = turns.charge("a", 1.0)
    turns.give_back("a", 1.0, cost)
    assert serve(turns, {"a": 1.0, "b": 1.0}, 2) == ["a", "b"]


@given(WEIGHTS, st.integers(0, 30))
def test_a_restart_changes_no_order(weights: dict[str, float], served: int) -> None:
    whole = FairShare()
    serve(whole, weights, served)
    restored = FairShare()
    restored.restore(whole.now, {member: whole.state_of(member) for member in "abcdefgh"})
    assert serve(restored, weights, 30) == serve(whole, weights, 30)


@given(WEIGHTS, st.integers(0, 30), st.sets(st.sampled_from("abcdefgh")))
def test_turns_that_nobody_has_used_yet_are_not_kept(
    weights: dict[str, float], served: int, going: set[str]
) -> None:
    turns, untouched = FairShare(), FairShare()
    for shares in (turns, untouched):
        serve(shares, weights, served)
    unused = {
        member: turns.charge(member, weights[member]) / weights[member]
        for member in sorted(going & weights.keys())
    }
    for member in weights:
        at = untouched.state_of(member).start
        kept = turns.state_of(member, unused.get(member, 0.0)).start
        assert max(kept or 0.0, turns.now) == pytest.approx(max(at or 0.0, turns.now))


def test_by_time_who_runs_long_gets_fewer_turns() -> None:
    turns, seconds, ran = FairShare("time"), {"long": 30.0, "short": 10.0}, Counter[str]()
    for _ in range(400):
        member = turns.choose(dict.fromkeys(seconds, 0))
        assert member is not None
        cost = turns.charge(member, 1.0)
        turns.ended(member, 1.0, cost, seconds[member])
        ran[member] += int(seconds[member])
    assert ran["long"] == pytest.approx(ran["short"], rel=0.05)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.sampled_from([1.0, 2.0]), st.integers(1, 8)),
        min_size=1,
    ),
    st.integers(0, 9),
)
def test_the_forecast_is_what_happens(waiting: dict[str, tuple[float, int]], before: int) -> None:
    turns, order = FairShare(), count()
    serve(turns, {member: weight for member, (weight, _) in waiting.items()}, before)
    queues = {
        member: MemberQueue(weight, [job(member=member, order=next(order)) for _ in range(jobs)])
        for member, (weight, jobs) in waiting.items()
    }
    forecast = turns.positions(queues)
    last = {position.job.member: position for position in forecast}
    for member, position in last.items():
        assert turns.before(queues, member) == position.before - (len(queues[member].jobs) - 1)
    left = {member: list(queue.jobs) for member, queue in queues.items()}
    for at, position in enumerate(forecast):
        claims = {name: jobs[0].order for name, jobs in left.items() if jobs}
        chosen = turns.choose(claims)
        assert chosen is not None
        assert (position.job, position.before) == (left[chosen].pop(0), at)
        turns.charge(chosen, queues[chosen].weight)
    assert not any(left.values())


def test_each_place_says_why_it_waits() -> None:
    one, two, three = (job(order=order) for order in (1, 2, 3))
    queues = {"a": MemberQueue(1.0, [one, two]), "b": MemberQueue(1.0, [three], blocked="limit")}
    assert [(position.job, position.reason) for position in FairShare().positions(queues)] == [
        (one, "slot"),
        (three, "limit"),
        (two, "turn"),
    ]


def test_each_members_jobs_stand_by_number_and_then_as_they_came() -> None:
    queue = JobQueue()
    late, front, first = job("late", order=1), job("front", number=-1, order=3), job("a", order=0)
    for waiting in (late, front, first, job("b", "ben", order=2)):
        queue.add(waiting)
    assert queue.of("anna") == [front, first, late]
    queue.remove(first)
    assert [waiting.prompt_id for waiting in queue.of("anna")] == ["front", "late"]
    assert (len(queue), len(queue.of("ben")), sorted(queue.members())) == (3, 1, ["anna", "ben"])


def scheduler(
    *accounts: Account, spending: MemberSpending | None = None, **members: Member
) -> Scheduler:
    given = accounts or (Account("one", None, "", slots=Slots(1)),)  # type: ignore[arg-type]
    return Scheduler(
        {account.name: account for account in given},
        lambda name: members.get(name, Member(name)),
        "jobs",
        clock=lambda: 0.0,
        turn=asyncio.Event(),
        spending=spending,
    )


def test_a_job_has_its_slot_until_it_leaves() -> None:
    jobs = scheduler()
    first, second = job("first", order=1), job("second", order=2)
    for waiting in (first, second):
        jobs.queue.add(waiting)
    assert jobs.next() is first
    assert (jobs.next(), jobs.used("one")) == (None, 1)
    jobs.free(first)
    jobs.free(first)
    assert (jobs.next(), jobs.used("one")) == (second, 1)


def test_a_member_has_no_more_slots_than_it_may() -> None:
    jobs = scheduler(
        Account("one", None, "", slots=Slots(2)),  # type: ignore[arg-type]
        anna=Member("anna", limits=Limits(max_running=1)),
    )
    first = job("first")
    assert jobs.assign_at_once(first)
    assert (jobs.limited("anna"), jobs.assign_at_once(job("next"))) == ("limit", False)
    jobs.free(first)
    assert jobs.limited("anna") is None


def test_accounts_with_a_free_slot_take_turns() -> None:
    accounts = [
        Account(name, None, "", Slots(slots))  # type: ignore[arg-type]
        for name, slots in (("a", 10), ("b", 300))
    ]
    jobs = scheduler(*accounts)
    for order in range(30):
        assert jobs.assign_at_once(job(str(order), order=order))
        assert jobs.used("a") == min(10, order // 2 + 1)


def test_what_did_not_go_has_neither_slot_nor_turn() -> None:
    jobs = scheduler()
    jobs.queue.add(job("b", "ben", order=2))
    first = job("a", order=1)
    assert jobs.assign_at_once(first)
    jobs.give_back(first)
    jobs.queue.add(first)
    assert jobs.next() is first


def test_what_no_account_has_any_longer_is_left_to_the_cloud() -> None:
    jobs = scheduler()
    first = job("a", needs=Needs(frozenset({"gone"}), "own.safetensors"))
    jobs.queue.add(first)
    assert (jobs.next(), first.account) == (first, "one")


@pytest.mark.parametrize(
    ("fields", "waits"),
    [
        ({"one_at_a_time": True}, True),
        ({}, False),
        ({"one_at_a_time": True, "client_id": "d"}, False),
        ({"one_at_a_time": True, "member": "bob"}, False),
    ],
)
def test_a_job_waits_for_the_others_of_its_client(fields: dict[str, Any], waits: bool) -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(2)))  # type: ignore[arg-type]
    first, second = job("1", order=1), job("2", order=2, **fields)
    assert jobs.assign_at_once(first)
    jobs.queue.add(second)
    assert jobs.next() is (None if waits else second)
    jobs.free(first)
    assert jobs.next() is (second if waits else None)


def test_the_share_of_a_turn_that_is_not_stored_yet_is_not_kept() -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(2)))  # type: ignore[arg-type]
    first, second = job("a", order=1), job("b", order=2)
    for waiting in (first, second):
        assert jobs.assign_at_once(waiting)
    assert jobs.shares_of([first]).members["anna"].start == 1.0
    assert jobs.shares_of([second]).members["anna"].start == 2.0


def test_jobs_that_are_stored_together_keep_the_shares_of_all_their_members() -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(3)))  # type: ignore[arg-type]
    taken = [job("a", order=1), job("b", "ben", order=2), job("c", order=3)]
    for waiting in taken:
        assert jobs.assign_at_once(waiting)
    kept = jobs.shares_of(taken[:2]).members
    assert {member: share.start for member, share in kept.items()} == {"anna": 1.0, "ben": 1.0}
    assert jobs.shares_of(taken[2:]).members["anna"].start == 2.0


def test_a_restart_goes_on_with_shares_and_learnt_slots() -> None:
    account = Account("one", None, "")  # type: ignore[arg-type]
    jobs = scheduler(account)
    jobs.restore(Shares(5.0, {"anna": Share(7.0, 2.0)}, {"one": 3, "gone": 2}))
    assert account.slots.count == 3
    assert (jobs.shares.now, jobs.shares.state_of("anna")) == (5.0, Share(7.0, 2.0))


def test_held_jobs_wait_and_others_overtake_them() -> None:
    jobs = scheduler(Account("one", None, "", slots=Slots(3)))  # type: ignore[arg-type]
    held, new = job("held", order=4), job("new", order=5)
    jobs.hold(4)
    for waiting in (held, new):
        jobs.queue.add(waiting)
    assert (jobs.next(), jobs.next()) == (new, None)
    jobs.hold(0)
    assert jobs.next() is held


def budgeted(limit: int) -> Scheduler:
    """A scheduler with two slots, and a hard budget of each member."""
    budgets = Budgets((Budget("credits_per_day", "day", limit, hard=True),))
    one = Account("one", None, "", slots=Slots(2))  # type: ignore[arg-type]
    return scheduler(one, spending=MemberSpending(lambda _: budgets, lambda: 0.0))


def test_a_job_beyond_a_budget_is_overtaken_by_one_within_it() -> None:
    jobs, dear, cheap = budgeted(4), job("dear", estimate=5), job("cheap", order=2, estimate=4)
    jobs.queue.add(dear)
    jobs.queue.add(cheap)
    assert (jobs.next(), jobs.next()) == (cheap, None)


def test_nothing_new_is_sent_beyond_a_budget() -> None:
    jobs = budgeted(4)
    assert not jobs.assign_at_once(job("dear", estimate=5))
    assert jobs.assign_at_once(job("cheap", estimate=4))


def test_what_members_have_spent_is_read_again_after_some_time() -> None:
    jobs = budgeted(4)
    jobs.spent("anna", Spending(4, 4), 43_200.0)
    assert jobs.next_try(0.0) == 60.0


def test_jobs_that_wait_for_a_budget_leave_the_queue_one_after_the_other() -> None:
    jobs = budgeted(10)
    waiting = [job(str(order), order=order, estimate=5) for order in (1, 2, 3)]
    for each in waiting:
        jobs.queue.add(each)
    assert (jobs.next(), jobs.next()) == (waiting[0], None)
    jobs.claim(waiting[0], 5)
    assert jobs.next() is waiting[1]
    jobs.claim(waiting[1], 5)
    assert (jobs.next(), jobs.limited("anna")) == (None, "ceiling")


def test_a_job_that_is_not_sent_lets_others_ask() -> None:
    jobs = budgeted(10)
    waiting = [job(str(order), order=order, estimate=5) for order in (1, 2)]
    for each in waiting:
        jobs.queue.add(each)
    first = jobs.next()
    assert first is waiting[0]
    jobs.give_back(first)
    assert jobs.next() is waiting[1]


def test_a_job_that_waits_for_others_of_its_member_goes_when_one_has_ended() -> None:
    jobs, under_way, waiting = budgeted(10), job("first"), job("second", order=2, estimate=5)
    jobs.claim(under_way, 6)
    jobs.queue.add(waiting)
    assert (jobs.next(), jobs.limited("anna")) == (None, "ceiling")
    jobs.released(under_way)
    assert jobs.next() is waiting


def test_no_job_overtakes_one_that_waits_for_others_of_its_member() -> None:
    jobs, first = budgeted(10), job("first", order=2, estimate=5)
    jobs.claim(job("under way"), 6)
    jobs.queue.add(first)
    cheap = job("cheap", order=3, estimate=1)
    assert not jobs.assign_at_once(cheap)
    jobs.queue.add(cheap)
    assert jobs.next() is None


def test_jobs_without_memory_go_when_one_of_their_member_has_ended() -> None:
    jobs, large = budgeted(10), job("large")
    assert jobs.assign_at_once(large)
    jobs.judge(large, OutOfMemory())
    jobs.give_back(large)
    jobs.queue.add(large)
    assert (jobs.next(), jobs.limited("anna"), jobs.next_try(0.0)) == (None, "memory", 2.0)
    jobs.released(job("ended"))
    assert jobs.next() is large
