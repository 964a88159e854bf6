"""Which troubles of accounts are told, and when."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.jobs.models import AccountView
from proxy.webhooks.watches import DELAYS, AccountWatch, changes


@pytest.mark.parametrize(
    ("told", "now", "due"),
    [
        ({}, {}, []),
        ({}, {"a": "no_credits"}, [("account.unavailable", "a", "no_credits")]),
        ({"a": "no_credits"}, {"a": "no_credits"}, []),
        ({"a": "no_credits"}, {"a": "dead_key"}, [("account.unavailable", "a", "dead_key")]),
        ({"a": "no_credits"}, {}, [("account.recovered", "a", "no_credits")]),
        (
            {"a": "dead_key"},
            {"b": "unreachable"},
            [("account.unavailable", "b", "unreachable"), ("account.recovered", "a", "dead_key")],
        ),
    ],
)
def test_what_has_changed_is_sent_once(
    told: dict[str, str], now: dict[str, str], due: list[tuple[str, str, str]]
) -> None:
    assert list(changes(told, now)) == due


def view(reason: str | None, *, known: bool = True) -> AccountView:
    return AccountView("main", 1, 0, reason, None, True, known=known)


@pytest.mark.parametrize(
    ("now", "lasts"),
    [
        (view(None, known=False), True),
        (view("unreachable"), True),
        (view("rate_limited"), True),
        (view(None), False),
    ],
)
def test_a_trouble_lasts_until_the_account_is_known_to_do_well(
    now: AccountView, lasts: bool
) -> None:
    unused: Any = None
    watch = AccountWatch(repository=unused, outbox=unused, fence=unused, views=lambda: [now])
    sent = {"main": "no_credits"}
    assert watch.lasting(sent) == (sent if lasts else {})


def test_a_cloud_that_is_away_is_sent_when_it_stays_away() -> None:
    unused: Any = None
    reason: list[str | None] = ["unreachable"]
    watch = AccountWatch(
        repository=unused, outbox=unused, fence=unused, views=lambda: [view(reason[0])]
    )
    assert watch.troubles(0.0) == {}
    assert watch.troubles(DELAYS["unreachable"] - 1) == {}
    assert watch.troubles(DELAYS["unreachable"]) == {"main": "unreachable"}
    reason[0] = None
    assert watch.troubles(100.0) == {}
    reason[0] = "unreachable"
    assert watch.troubles(101.0) == {}, "it has been there again meanwhile"


@pytest.mark.parametrize("reason", ["no_credits", "dead_key"])
def test_what_a_person_must_repair_is_sent_at_once(reason: str) -> None:
    unused: Any = None
    watch = AccountWatch(
        repository=unused, outbox=unused, fence=unused, views=lambda: [view(reason)]
    )
    assert watch.troubles(0.0) == {"main": reason}


@pytest.mark.parametrize("reason", [None, "rate_limited", "queue_limit"])
def test_load_is_no_trouble(reason: str | None) -> None:
    unused: Any = None
    watch = AccountWatch(
        repository=unused, outbox=unused, fence=unused, views=lambda: [view(reason)]
    )
    assert watch.troubles(1000.0) == {}
