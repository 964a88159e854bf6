"""What a run of a partner node costs, as its class in `object_info` says it beforehand.

Partner nodes run at other companies and are paid for by the run. Their classes have a
`price_badge`: an expression of the node's values, with which the web interface shows the price.
Pure, linear in the node's values, and bounded in what an expression takes (`Expression`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from proxy.costs.credits import from_usd
from proxy.costs.expressions import Expression, UnsupportedExpressionError
from proxy.translate.jobs import unwrapped
from proxy.translate.reading import field_of, list_of, text_of
from proxy.translate.shapes import options_of, specs_of

#: Expressions that are kept parsed: a few hundred classes have one. The longest take 1 MB each.
_MAX_PARSED = 256

#: Values of a node, and inputs and groups of it, that an expression may depend on.
_MAX_DEPENDS = 100

#: Dollars of one run, in all: a higher price is not believed.
_MAX_USD = 10_000.0

#: Price texts for a whole run end in one of these; ` x 4/Run` multiplies. Others are prices for a
#: second, an image or a thousand tokens, of which nobody knows the number.
_PER_RUN = re.compile(r"(?: ?x ?(?P<times>[0-9]{1,4}))?/run", re.IGNORECASE)


def estimated_price(info: Mapping[str, Any], inputs: Mapping[str, Any]) -> int | None:
    """Return what a run of a node costs in millionths of a credit, as its class says.

    `info` is the class's entry in `object_info`, `inputs` those of the node in its graph. Of a
    range of prices the highest counts, so that a budget which has room for it is not exceeded.
    `None` if the class does not say it: the price depends on what another node computes, is not
    for a whole run (`/second`), or is written in a form that `Expression` does not support.
    """
    badge = info.get("price_badge")
    text = field_of(badge, "expr")
    if not isinstance(badge, Mapping) or not isinstance(text, str):
        return None
    expression = _parsed_expression(text)
    context = _context(info, inputs, badge.get("depends_on"))
    if expression is None or context is None:
        return None
    try:
        usd = _usd(expression.evaluate(context))
    except UnsupportedExpressionError:
        return None
    return None if usd is None else from_usd(usd)


@lru_cache(_MAX_PARSED)
def _parsed_expression(text: str) -> Expression | None:
    try:
        return Expression(text)
    except UnsupportedExpressionError:
        return None


def _context(
    info: Mapping[str, Any], inputs: Mapping[str, Any], depends: object
) -> dict[str, dict[str, Any]] | None:
    """Return what an expression may name, `None` if another node computes one of the values,
    it is no text or number, or there are too many.

    Beside the `widgets` these are `inputs`, which are connected or not, and `inputGroups`: how many
    inputs of a group are.
    """
    named, wanted = _widgets(depends), _names(depends, "inputs")
    grouped = _names(depends, "input_groups")
    if max(len(named), len(wanted), len(grouped)) > _MAX_DEPENDS:
        return None
    widgets = {}
    for name, type_ in named:
        value = unwrapped(inputs[name]) if name in inputs else _default(info, name)
        if isinstance(value, list | dict):
            return None
        widgets[name] = _widget(value, type_)
    connected = {name for name, value in inputs.items() if isinstance(value, list)}
    groups: dict[str, float] = dict.fromkeys(grouped, 0.0)
    for name in connected:
        group = name.partition(".")[0]
        if group in groups:
            groups[group] += 1.0
    return {
        "widgets": widgets,
        "inputs": {name: {"connected": name in connected} for name in wanted},
        "inputGroups": groups,
    }


def _names(depends: object, kind: str) -> list[str]:
    return [name for name in list_of(field_of(depends, kind)) if isinstance(name, str)]


def _widgets(depends: object) -> list[tuple[str, str]]:
    """Return the names and the types of the values that an expression depends on."""
    found = []
    for widget in list_of(field_of(depends, "widgets")):
        name = widget.get("name") if isinstance(widget, Mapping) else widget
        type_ = field_of(widget, "type")
        if isinstance(name, str):
            found.append((name, text_of(type_).upper()))
    return found


def _default(info: Mapping[str, Any], name: str) -> Any:
    """Return the value that a node has for an input which its graph leaves out."""
    spec = specs_of(info).get(name)
    if not isinstance(spec, list | tuple) or not spec:
        return None
    options = options_of(spec)
    if "default" in options:
        return options["default"]
    offered = spec[0] if isinstance(spec[0], list) else options.get("options")
    first = offered[0] if isinstance(offered, list) and offered else None
    return first.get("key") if isinstance(first, Mapping) else first


def _widget(value: object, type_: str) -> Any:
    """Return a value as the web interface hands it to expressions: text in small letters."""
    match value:
        case bool():
            return str(value).lower() if type_ not in ("BOOLEAN", "COMBO") else value
        case int() | float():
            number = _finite(value)
            if type_ in ("INT", "FLOAT", "COMBO"):
                return number
            return None if number is None or type_ == "BOOLEAN" else f"{number:.15g}"
        case str():
            text = value.strip().lower()
            if type_ in ("INT", "FLOAT"):
                return _finite(text)
            return {"true": True, "false": False}.get(text) if type_ == "BOOLEAN" else text
    return None


def _finite(value: float | str) -> float | None:
    """Return a number as a float, `None` if it is none."""
    try:
        number = float(value) if len(str(value)) <= 40 or isinstance(value, float) else math.inf
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _usd(result: Any) -> float | None:
    """Return the dollars of a run, `None` if the result of an expression is no price of a run."""
    if not isinstance(result, Mapping):
        return None
    match result.get("type", "usd"):
        case "usd":
            found = [result.get("usd")]
        case "range_usd":
            found = [result.get("min_usd"), result.get("max_usd")]
        case "list_usd":
            found = list_of(result.get("usd"))
        case _:
            return None
    prices = [
        float(each)
        for each in found
        if isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= _MAX_USD
    ]
    times = _times(result.get("format"))
    if times is None or not prices or len(prices) < len(found):
        return None
    usd = max(prices) * times
    return usd if usd <= _MAX_USD else None


def _times(form: object) -> int | None:
    """Return how many times a run costs the price, `None` if it is not for runs."""
    suffix = field_of(form, "suffix")
    if suffix is None:
        return 1
    match = _PER_RUN.fullmatch(suffix) if isinstance(suffix, str) else None
    return None if match is None else int(match["times"] or 1)
