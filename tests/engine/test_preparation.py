"""What an account lends to a job, and when it may."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.accounts import Account
from proxy.engine.policy import Policy
from proxy.engine.preparation import Preparation
from proxy.engine.recorder import JobRecorder
from proxy.engine.term import Term
from proxy.storage.database import FencedError
from proxy.storage.leases import Lease


def preparation(term: Term, *, lends: bool = True) -> Preparation:
    unused: Any = None
    recorder = JobRecorder(unused, term, 10)
    account = Account("one", unused, "the-key")
    return Preparation(account, recorder, unused, unused, Policy(send_partner_key=lends))


@pytest.fixture
def term() -> Term:
    return Term(Lease("engine", "one", 1))


def test_the_key_that_the_account_has_now_is_lent(term: Term) -> None:
    made = preparation(term)
    made.account.key = "another"
    assert made.lent({}) == {"api_key_comfy_org": "another"}


def test_nothing_is_lent_where_that_is_switched_off(term: Term) -> None:
    assert preparation(term, lends=False).lent({}) == {}


def test_a_client_with_credentials_of_its_own_is_lent_none(term: Term) -> None:
    assert preparation(term).lent({"api_key_comfy_org": "mine"}) == {}


def test_nothing_is_lent_after_the_term(term: Term) -> None:
    term.end()
    with pytest.raises(FencedError):
        preparation(term).lent({})
