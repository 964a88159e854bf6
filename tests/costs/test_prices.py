"""What partner nodes cost, as their classes estimate it, or nobody knows."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.costs.credits import CREDITS_PER_USD, MILLIONTHS, from_usd
from proxy.costs.expressions import MAX_WORDS, Expression
from proxy.costs.prices import _MAX_PARSED, estimated_price
from proxy.simulator.nodes.special import NODES, PARTNER, PRICE


def partner(expression: str, *widgets: str | tuple[str, str], **depends: Any) -> dict[str, Any]:
    """The entry of a class in `object_info`, whose price is an expression."""
    named = [(each, "COMBO") if isinstance(each, str) else each for each in widgets]
    return {
        "input": {
            "required": {
                "model": ["COMBO", {"options": ["Fast", "best"]}],
                "kind": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "v2", "inputs": {}}]}],
                "old": [["first", "second"], {}],
            },
            "optional": {"n": ["INT", {"default": 2}], "image": ["IMAGE"]},
        },
        "api_node": True,
        "price_badge": {
            "engine": "jsonata",
            "depends_on": {
                "widgets": [{"name": name, "type": type_} for name, type_ in named],
                "inputs": [],
                "input_groups": [],
                **depends,
            },
            "expr": expression,
        },
    }


TABLE = """(
  $prices := {"fast": {"min": 0.1, "max": 0.3}, "best": {"min": 1, "max": 2}};
  $price := $lookup($prices, widgets.model);
  /* a range, because nobody knows the length before */
  {"type": "range_usd", "min_usd": $price.min, "max_usd": $price.max}
)"""
TABLE_OR_CHEAP = '{"usd": widgets.model = "best" ? 2 : 0.1}'
PER_IMAGE = '{"type": "usd", "usd": 0.01 * widgets.n}'
CONNECTED = '{"usd": inputs.image.connected ? 0.02 + 0.01 * inputGroups.refs : 0.01}'


@pytest.mark.parametrize(
    ("info", "inputs", "usd"),
    [
        (partner('{"type":"usd","usd":0.06}'), {}, 0.06),
        (partner('{"usd":0.06}'), {}, 0.06),
        (partner('{"type":"usd","usd":0}'), {}, 0.0),
        (partner(TABLE, "model"), {"model": "FAST "}, 0.3),
        (partner(TABLE, "model"), {"model": "best"}, 2.0),
        (partner(TABLE, "model"), {}, 0.3),
        (partner('{"usd": widgets.kind = "v2" ? 0.1 : 9}', ("kind", "X")), {}, 0.1),
        (partner('{"usd": widgets.old = "first" ? 0.1 : 9}', "old"), {}, 0.1),
        (
            partner('{"usd": $lookup(widgets, "kind.n") * 0.1}', ("kind.n", "INT")),
            {"kind.n": 4},
            0.4,
        ),
        (partner(PER_IMAGE, ("n", "INT")), {"n": 5}, 0.05),
        (partner(PER_IMAGE, ("n", "INT")), {"n": " 5 "}, 0.05),
        (partner(PER_IMAGE, ("n", "INT")), {"n": {"__value__": 5}}, 0.05),
        (partner(TABLE_OR_CHEAP, "model"), {"model": {"__value__": "best"}}, 2.0),
        (partner(PER_IMAGE, ("n", "INT")), {}, 0.02),
        (partner('{"usd": widgets.hd ? 2 : 1}', ("hd", "BOOLEAN")), {"hd": "True"}, 2.0),
        (partner('{"usd": widgets.s = "5" ? 2 : 1}', ("s", "STRING")), {"s": 5}, 2.0),
        (partner('{"usd": widgets.s = 5 ? 2 : 1}', "s"), {"s": 5}, 2.0),
        (partner(CONNECTED, inputs=["image"], input_groups=["refs"]), {}, 0.01),
        (
            partner(CONNECTED, inputs=["image"], input_groups=["refs"]),
            {"image": ["1", 0], "refs.a": ["2", 0], "refs.b": ["3", 0], "refs.c": 1},
            0.04,
        ),
        (partner('{"type":"list_usd","usd":[0.1, 0.3, 0.2]}'), {}, 0.3),
        (partner('{"usd": 0.1, "format": {"suffix": " x 4/Run", "approximate": true}}'), {}, 0.4),
        (partner('{"usd": 0.1, "format": {"suffix": "/Run", "note": "(more)"}}'), {}, 0.1),
    ],
)
def test_a_class_estimates_the_price_of_a_run(
    info: dict[str, Any], inputs: dict[str, Any], usd: float
) -> None:
    assert estimated_price(info, inputs) == round(usd * CREDITS_PER_USD * MILLIONTHS)


@pytest.mark.parametrize(
    ("info", "inputs"),
    [
        ({"api_node": True}, {}),
        ({"api_node": True, "price_badge": None}, {}),
        ({"api_node": True, "price_badge": {"expr": 1}}, {}),
        ({"api_node": True, "price_badge": {"expr": "1" * 100_000}}, {}),
        (partner('{"type":"text","text":"Token-based"}'), {}),
        (partner('{"usd": 0.07, "format": {"suffix": "/second"}}'), {}),
        (partner('{"usd": 0.04, "format": {"suffix": " x images/Run"}}'), {}),
        (partner('{"usd": 0.04, "format": {"suffix": 1}}'), {}),
        (partner('{"type":"list_usd","usd":[0.1,0.2],"format":{"suffix":" per 1K tokens"}}'), {}),
        (partner('{"type":"list_usd","usd":[]}'), {}),
        (partner('{"type":"list_usd","usd":[0.1,"much"]}'), {}),
        (partner('{"type":"range_usd","min_usd":0.1}'), {}),
        (partner('{"type":"hours","usd":1}'), {}),
        (partner('{"usd": -1}'), {}),
        (partner('{"usd": 1e9}'), {}),
        (partner('{"usd": 9e3, "format": {"suffix": " x 9999/Run"}}'), {}),
        (partner('{"usd": "1"}'), {}),
        (partner('{"usd": true}'), {}),
        (partner("1"), {}),
        (partner("("), {}),
        (partner('{"usd": $map([1], function($n){$n})}'), {}),
        (partner(PER_IMAGE, ("n", "INT")), {"n": ["4", 0]}),
        (partner(TABLE_OR_CHEAP, "model"), {"model": ["4", 0]}),
        (partner(TABLE_OR_CHEAP, "model"), {"model": ["4", True]}),
        (partner(TABLE_OR_CHEAP, "model"), {"model": {"__value__": ["best"]}}),
        (partner(TABLE_OR_CHEAP, "model"), {"model": {"a": "best"}}),
        (partner(PER_IMAGE, ("n", "INT")), {"n": "many"}),
        (partner(PER_IMAGE, ("n", "INT")), {"n": 10**400}),
        (partner(PER_IMAGE, ("m", "INT")), {}),
        (partner(TABLE, "model"), {"model": "other"}),
    ],
)
def test_a_price_that_nobody_can_tell_is_unknown(
    info: dict[str, Any], inputs: dict[str, Any]
) -> None:
    assert estimated_price(info, inputs) is None


def test_defaults_of_optional_inputs_count_and_a_hundred_values_are_all() -> None:
    names = [f"w{number}" for number in range(101)]
    widgets = [(name, "FLOAT") for name in names]
    about = {
        "required": {"w0": ["FLOAT", {"default": 1}]},
        "optional": {name: ["FLOAT", {"default": 2}] for name in names},
    }
    expression = '{"usd": widgets.w0 + widgets.w1}'
    assert estimated_price({**partner(expression, *widgets[:100]), "input": about}, {}) == from_usd(
        3
    )
    assert estimated_price({**partner(expression, *widgets), "input": about}, {}) is None


def test_the_class_of_the_simulator_says_what_its_node_reports() -> None:
    (node,) = (node for node in NODES if node.name == PARTNER)
    assert estimated_price(node.object_info(), {"prompt": "a cat"}) == from_usd(PRICE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "api_node": JSON,
            "input": JSON,
            "price_badge": st.fixed_dictionaries(
                {"expr": JSON | st.sampled_from([TABLE, PER_IMAGE, CONNECTED])},
                optional={
                    "depends_on": JSON
                    | st.fixed_dictionaries({"widgets": JSON, "inputs": JSON, "input_groups": JSON})
                },
            ),
        },
    ),
    st.dictionaries(st.text(max_size=5), JSON),
)
def test_whatever_the_cloud_and_the_client_send_has_a_price_or_none(
    info: dict[str, Any], inputs: dict[str, Any]
) -> None:
    price = estimated_price(info, inputs)
    assert price is None or price >= 0


def test_expressions_that_are_kept_take_a_bounded_amount_of_memory() -> None:
    tracemalloc.start()
    try:
        longest = Expression("[" + "1," * (MAX_WORDS // 2 - 2) + "1]")
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert longest
    assert size * _MAX_PARSED < 400 * 1024 * 1024
