"""The functions that expressions may call. Each is linear in its arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from proxy.costs.values import MISSING, as_boolean, as_number, as_text, field_of, finite

#: Characters of a text that is searched for.
MAX_PATTERN = 1000

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def _of(kind: type, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function for a first argument of this type; of `MISSING` it makes `MISSING`."""

    def checked(first: Any, *others: Any) -> Any:
        if first is MISSING:
            return MISSING
        if not isinstance(first, kind):
            raise TypeError("its argument has another type")
        return function(first, *others)

    return checked


def _of_numbers(function: Callable[[list[float]], float]) -> Callable[..., Any]:
    """Return the function for an array of numbers or one number."""

    def checked(value: Any) -> Any:
        found = value if isinstance(value, list) else [] if value is MISSING else [value]
        return finite(function([as_number(each) for each in found])) if found else MISSING

    return checked


def _round(value: float, digits: float = 0.0) -> float:
    """Round half to even, as JSONata does."""
    if not -20 <= digits <= 20 or abs(value) > 1e20:
        raise ValueError("too many digits")
    step = Decimal(1).scaleb(-int(digits))
    return float((Decimal(repr(value)) / step).to_integral_value(ROUND_HALF_EVEN) * step)


def _lookup(value: Any, key: Any) -> Any:
    return field_of(value, key) if isinstance(key, str) else MISSING


def _to_number(value: Any) -> Any:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if len(value) > 40 or not _NUMBER.fullmatch(value):
            raise ValueError("the text is not a number")
        return finite(float(value))
    return value if value is MISSING else as_number(value)


def _contains(text: str, pattern: str) -> bool:
    if len(pattern) > MAX_PATTERN:
        raise ValueError("too long a pattern")
    return pattern in text


def _replace(text: str, pattern: str, replacement: str) -> str:
    if not pattern or not len(replacement) <= len(pattern) <= MAX_PATTERN:
        raise ValueError("the text would grow")
    return text.replace(pattern, replacement)


def _substring(text: str, start: float, length: float | None = None) -> str:
    first = max(0, int(start) + len(text)) if start < 0 else int(start)
    last = len(text) if length is None else first + max(0, int(length))
    return text[first:last]


def _substring_before(text: str, mark: str) -> str:
    return text.partition(mark)[0] if _contains(text, mark) else text


def _after(text: str, mark: str) -> str:
    return text.partition(mark)[2] if _contains(text, mark) else text


def _count(value: Any) -> float:
    return float(len(value)) if isinstance(value, list) else float(value is not MISSING)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "$abs": _of(float, abs),
    "$average": _of_numbers(lambda found: math.fsum(found) / len(found)),
    "$boolean": lambda value: value if value is MISSING else as_boolean(value),
    "$ceil": _of(float, lambda value: float(math.ceil(value))),
    "$contains": _of(str, _contains),
    "$count": _count,
    "$exists": lambda value: value is not MISSING,
    "$floor": _of(float, lambda value: float(math.floor(value))),
    "$length": _of(str, lambda text: float(len(text))),
    "$lookup": _lookup,
    "$lowercase": _of(str, str.lower),
    "$max": _of_numbers(max),
    "$min": _of_numbers(min),
    "$not": lambda value: value if value is MISSING else not as_boolean(value),
    "$number": _to_number,
    "$power": _of(float, lambda base, exponent: finite(math.pow(base, as_number(exponent)))),
    "$replace": _of(str, _replace),
    "$round": _of(float, _round),
    "$sqrt": _of(float, math.sqrt),
    "$string": lambda value: value if value is MISSING else as_text(value),
    "$substring": _of(str, _substring),
    "$substringAfter": _of(str, _after),
    "$substringBefore": _of(str, _substring_before),
    "$sum": _of_numbers(math.fsum),
    "$trim": _of(str, lambda text: " ".join(text.split())),
    "$uppercase": _of(str, str.upper),
}
