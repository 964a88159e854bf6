"""Amounts in credits as whole millionths, so that sums never drift. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias

#: Millionths of a credit in one credit.
MILLIONTHS = 1_000_000

#: What one US dollar buys: a constant of the cloud's web interface and of comfy-cli.
CREDITS_PER_USD = 211

#: The largest amount in credits that is believed.
MAX_CREDITS = 10**9

#: Where a figure comes from: Comfy Cloud has reported it, the proxy has estimated it, or nobody
#: knows it (then the amount is 0).
Source: TypeAlias = Literal["reported", "estimated", "unknown"]

#: Returns what a run of a partner node costs in millionths of a credit, by its class in
#: `object_info` and the inputs of the node; `None` if the class does not say so.
PriceOf: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], int | None]


def from_credits(value: float | str | Decimal) -> int:
    """Return an amount of credits in millionths. Raises `ValueError` for one that is no amount."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_CREDITS:
        raise ValueError("not an amount of credits")
    return int((amount * MILLIONTHS).to_integral_value(ROUND_HALF_EVEN))


def from_usd(value: float | str | Decimal) -> int:
    """Return an amount of US dollars in millionths of a credit. Raises `ValueError`."""
    try:
        return from_credits(Decimal(str(value)) * CREDITS_PER_USD)
    except InvalidOperation:
        raise ValueError("not a number") from None


def to_credits(millionths: int) -> float:
    """Return an amount in credits, for JSON; exact to the sixth digit."""
    return millionths / MILLIONTHS


def credits_text(millionths: int, *, digits: int = 4) -> str:
    """Return an amount for people: `12.35 credits`, `1 credit`, `0.004 credits`. Less than a credit
    has at most so many digits behind its zeros."""
    amount = Decimal(millionths) / MILLIONTHS
    shown = 2
    if amount and abs(amount) < 1:
        shown = min(4, digits - amount.adjusted() - 1)
    number = f"{amount:,.{shown}f}".rstrip("0").rstrip(".")
    return f"{number} {'credit' if number == '1' else 'credits'}"
