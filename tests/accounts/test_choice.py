"""Which account takes a job."""

from __future__ import annotations

from collections import Counter

from proxy.accounts.choice import Choice, may_use


def test_twice_the_weight_gets_twice_the_jobs() -> None:
    choice, weights, served = Choice(), {"a": 1.0, "b": 2.0}, Counter[str]()
    for _ in range(300):
        name = choice.of(weights)
        assert name is not None
        choice.took(name, weights[name])
        served[name] += 1
    assert abs(served["b"] - 200) <= 1


def test_none_can() -> None:
    assert Choice().of({}) is None


def test_an_account_that_was_full_does_not_catch_up() -> None:
    choice = Choice()
    for _ in range(50):
        choice.took("a", 1.0)
    served = []
    for _ in range(6):
        name = choice.of({"a": 1.0, "b": 1.0})
        assert name is not None
        choice.took(name, 1.0)
        served.append(name)
    assert served.count("a") == 3


def test_who_may_use_an_account() -> None:
    assert may_use((), "anna")
    assert may_use(("anna",), "anna")
    assert not may_use(("anna",), "ben")
