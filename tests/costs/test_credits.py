"""Amounts in credits."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.costs.credits import (
    CREDITS_PER_USD,
    MILLIONTHS,
    credits_text,
    from_credits,
    from_usd,
    to_credits,
)


@pytest.mark.parametrize(
    ("value", "millionths"),
    [
        (0, 0),
        (1, 1_000_000),
        (0.27, 270_000),
        ("8.4", 8_400_000),
        (Decimal("0.0000005"), 0),
        (Decimal("0.0000015"), 2),
        ("1e3", 1_000_000_000),
    ],
)
def test_credits_are_whole_millionths(value: float | str | Decimal, millionths: int) -> None:
    assert from_credits(value) == millionths


@pytest.mark.parametrize(("usd", "millionths"), [(1, 211_000_000), ("0.04", 8_440_000), (0, 0)])
def test_a_dollar_buys_211_credits(usd: float | str, millionths: int) -> None:
    assert from_usd(usd) == millionths


@pytest.mark.parametrize("value", [-1, "nan", "inf", "-0.01", "", "12 credits", 1e10])
@pytest.mark.parametrize("read", [from_credits, from_usd])
def test_what_is_no_amount_is_refused(read: object, value: float | str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match="not a"):
        read(value)


@pytest.mark.parametrize(
    ("millionths", "text"),
    [
        (0, "0 credits"),
        (1_000_000, "1 credit"),
        (12_345_678, "12.35 credits"),
        (4_000, "0.004 credits"),
        (-1_500_000, "-1.5 credits"),
        (1_234_500_000, "1,234.5 credits"),
    ],
)
def test_amounts_for_people(millionths: int, text: str) -> None:
    assert credits_text(millionths) == text


@given(st.integers(0, 10**15))
def test_millionths_survive_json(millionths: int) -> None:
    assert from_credits(to_credits(millionths)) == millionths


@given(st.lists(st.integers(0, 10_000), max_size=200))
def test_sums_of_cents_are_exact(cents: list[int]) -> None:
    total = sum(from_usd(Decimal(amount) / 100) for amount in cents)
    assert total == Fraction(sum(cents), 100) * CREDITS_PER_USD * MILLIONTHS
