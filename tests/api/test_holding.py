"""Whom requests are counted for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.api.holding import owner_of
from proxy.sharing.owners import Owner, stranger


@pytest.mark.parametrize(
    ("sender", "owner"),
    [(Owner("ann"), "ann"), (stranger("2001:db8::1"), "address 2001:db8::/64")],
)
def test_the_turns_of_a_request_are_those_of_the_member_elsewhere(
    sender: Owner, owner: str
) -> None:
    request: Any = SimpleNamespace(protocol=SimpleNamespace(sender=sender))
    assert owner_of(request) == owner
