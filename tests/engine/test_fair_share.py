"""Members have weighted turns."""

from __future__ import annotations

from collections import Counter

from jobs.samples import job

from proxy.engine.fair_share import FairShare, JobQueue


def test_turns_are_in_proportion_to_the_weights() -> None:
    shares, weights, turns = FairShare(), {"anna": 2.0, "ben": 1.0}, Counter[str]()
    for _ in range(30):
        chosen = shares.choose({"anna": 1, "ben": 2})
        assert chosen is not None
        shares.charge(chosen, weights[chosen])
        turns[chosen] += 1
    assert turns == {"anna": 20, "ben": 10}


def test_a_member_that_was_away_has_no_credit() -> None:
    shares = FairShare()
    for _ in range(10):
        shares.charge("anna", 1.0)
    shares.charge("ben", 1.0)
    assert shares.choose({"anna": 1, "ben": 2}) == "anna"


def test_a_turn_that_was_not_used_is_given_back() -> None:
    shares = FairShare()
    cost = shares.charge("anna", 1.0)
    shares.give_back("anna", 1.0, cost)
    assert shares.choose({"anna": 1, "ben": 2}) == "anna"


def test_waiting_jobs_are_in_the_order_of_their_numbers() -> None:
    queue = JobQueue()
    jobs = [job("one", number=2), job("two", number=-1), job("three", number=1)]
    for waiting in jobs:
        queue.add(waiting)
    assert [waiting.prompt_id for waiting in queue.of("anna")] == ["two", "three", "one"]
    for waiting in jobs:
        queue.remove(waiting)
    assert (len(queue), queue.members()) == (0, [])
