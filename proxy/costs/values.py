"""The values of expressions: those of JSON with floats for all numbers, and `MISSING`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from proxy.translate import codec


class UnsupportedExpressionError(ValueError):
    """Raised for an expression that is wrong, needs what is not supported here, or costs too much
    to evaluate."""


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


#: What JSONata calls undefined: the value of a path that leads nowhere.
MISSING: Final = Missing()


def field_of(value: Any, name: str) -> Any:
    """Return a member of an object, `MISSING` where there is none."""
    if isinstance(value, list):
        raise UnsupportedExpressionError("paths through arrays are not supported")
    return value.get(name, MISSING) if isinstance(value, Mapping) else MISSING


def as_number(value: Any) -> float:
    """Return a value that is a number."""
    if not isinstance(value, float):
        raise UnsupportedExpressionError("calculates with what is not a number")
    return value


def finite(value: float) -> float:
    """Return a number that is neither infinite nor NaN."""
    if not math.isfinite(value):
        raise UnsupportedExpressionError("a number is too large")
    return value


def as_boolean(value: Any) -> bool:
    """Return what a value counts as in a condition."""
    if isinstance(value, list):
        raise UnsupportedExpressionError("an array is not a condition")
    return value is not MISSING and bool(value)


def as_text(value: Any) -> str:
    """Return a value as text: numbers with up to 15 digits, as JSONata writes them."""
    match value:
        case Missing():
            return ""
        case str():
            return value
        case bool() | None:
            return codec.dumps(value)
        case float():
            return f"{value:.15g}"
    raise UnsupportedExpressionError("writes an array or an object as text")


def is_equal(first: Any, second: Any) -> bool:
    """Return whether two values have the same type and value."""
    if isinstance(first, list | Mapping) or isinstance(second, list | Mapping):
        raise UnsupportedExpressionError("compares arrays or objects")
    return type(first) is type(second) and first == second


def is_in_order(operator: str, first: Any, second: Any) -> Any:
    """Return whether two numbers or two texts compare as `<`, `<=`, `>` or `>=` says, `MISSING`
    where one of them is."""
    types = {type(each) for each in (first, second) if each is not MISSING}
    if not types <= {float, str} or len(types) > 1:
        raise UnsupportedExpressionError("compares what has no order")
    if first is MISSING or second is MISSING:
        return MISSING
    if operator in ("<", ">="):
        return (first < second) is (operator == "<")
    return (first > second) is (operator == ">")
