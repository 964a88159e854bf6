"""Expressions in which node classes write their prices, and what they may cost to evaluate."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from cpu_time import least_seconds
from hypothesis import given
from hypothesis import strategies as st
from jsonata import JException, Jsonata

from proxy.costs.expressions import MAX_LENGTH, Expression
from proxy.costs.functions import FUNCTIONS
from proxy.costs.values import MISSING, UnsupportedExpressionError

CONTEXT = {
    "widgets": {
        "size": "1024x1024",
        "n": 3.0,
        "none": None,
        "audio": True,
        "mode.pbr": False,
        "text": "a longer text",
    },
    "inputs": {"image": {"connected": True}},
    "inputGroups": {"images": 2.0},
}

#: Expressions and their values, which the library for JSONata must give them, too.
VALUES: list[tuple[str, Any]] = [
    ("1", 1),
    ("0.5e1", 5),
    ('"a\\"b\\u0041"', 'a"bA'),
    ('\'a "b" \\\\ \\"\'', 'a "b" \\ "'),
    ("null", None),
    ("true", True),
    ("/* a price */ 2 /**/ + 0", 2),
    ("widgets.size", "1024x1024"),
    ('widgets."mode.pbr"', False),
    ("widgets.`mode.pbr`", False),
    ("widgets.other", MISSING),
    ("widgets.other.deeper", MISSING),
    ("inputs.image.connected ? 2 : 1", 2),
    ("inputGroups.images * 0.5", 1),
    ("1 + 2 * 3 - 4 / 2", 5),
    ("(1 + 2) * 3", 9),
    ("2 - 3 - 4", -5),
    ("-2 * -3", 6),
    ("7 % 4", 3),
    ("1 < 2 and 2 <= 2 and 3 > 2 and 3 >= 3", True),
    ("false or null", False),
    ("1 = 1.0", True),
    ("1 = true", False),
    ('"1" = 1', False),
    ("widgets.other = 1", False),
    ("widgets.other != 1", False),
    ("widgets.none = null", True),
    ("widgets.none != null and widgets.none != 0", False),
    ("widgets.other + 1", MISSING),
    ("widgets.other < 1", MISSING),
    ('"a" < "b"', True),
    ('widgets.n in [1, 2, 3] ? "few" : "many"', "few"),
    ('"x" in "x"', True),
    ('"a" & 1 & true & null & widgets.other & 0.1', "a1truenull0.1"),
    ("false ? 1", MISSING),
    ("0 ? 1 : 2", 2),
    ('"" ? 1 : 2', 2),
    ("true ? 1 : false ? 2 : 3", 1),
    ("($x := 2; $y := $x * 3; $y + 1)", 7),
    ("($x := 1; ($x := 2; $x) + $x)", 3),
    ("$x", MISSING),
    ("{}", {}),
    ('{"a": 1, "b": widgets.other, "c": {"d": [1, 2]}}', {"a": 1, "c": {"d": [1, 2]}}),
    ("[1, 2, 3][1]", 2),
    ("[1, 2, 3][-1]", 3),
    ("[1, 2][5]", MISSING),
    ("5[0]", 5),
    ('{"min": 0.5}.min', 0.5),
    ('$lookup({"a.b": 4}, "a.b")', 4),
    ('$lookup({"a": 4}, "b")', MISSING),
    ('($p := {"a": {"b": [1, 2]}}; $lookup($lookup($p, "a"), "b")[1])', 2),
    ("$abs(-2)", 2),
    ("$average([1, 2, 6])", 3),
    ("$boolean('')", False),
    ("$ceil(1.2) + $floor(1.8)", 3),
    ("$contains(widgets.size, '1024') and $not($contains(widgets.size, '512'))", True),
    ("$contains(widgets.other, 'a')", MISSING),
    ("$count([1, 2]) + $count(widgets.other)", 2),
    ("$exists(widgets.size) and $not($exists(widgets.other))", True),
    ("$length(widgets.text)", 13),
    ('$lowercase("AbC") & $uppercase("d")', "abcD"),
    ("$max([1, 5, 2]) - $min([3, 1])", 4),
    ('$number("0.25") * 4', 1),
    ("$power(2, 10)", 1024),
    ('$number($replace("8s", "s", "")) * 2', 16),
    ("$round(0.125, 2)", 0.12),
    ("$round(2.5)", 2),
    ("$round(1234, -2)", 1200),
    ("$sqrt(16)", 4),
    ("$string(1.50) & $string(true)", "1.5true"),
    ('$substring("abcdef", 2, 2) & $substring("abc", -1)', "cdc"),
    ('$substringBefore("5 s", " ") & $substringAfter("a:b", ":")', "5b"),
    ("$sum([1, 2, 3])", 6),
    ('$trim("  a   b ")', "a b"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_an_expression_has_a_value(text: str, value: Any) -> None:
    assert Expression(text).evaluate(CONTEXT) == value


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_jsonata_gives_it_the_same_value(text: str, value: Any) -> None:
    assert (Jsonata(text).evaluate(CONTEXT) == (None if value is MISSING else value)) is True


def test_every_function_is_among_them() -> None:
    texts = " ".join(text for text, _ in VALUES)
    assert [name for name in FUNCTIONS if f"{name}(" not in texts] == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "(1", "1 2", "1 +", '"open', '"a\\"', "'", "`a", "/* a", "/*/", "# 1", "{1: 2}"),
        *("$", "$x(1)", "$eval('1')", "$map([1], $abs)", "function($x){$x}(1)", "λ($x){$x}"),
        *("/(a+)+$/", "[1..9]", "[1, 2].a", "*", "**", "a.*", "a.(b)", "a ~> $abs", "a^(b)"),
        *("$p[a = 1]", "$p['a']", "[1, 2][true]", "a{b: c}", "|a|b|", "%.a", "a#$i", "a@$b"),
        *("1 := 2", '"a" + 1', "true + 1", "-'a'", "1 < 'a'", "null < 1", "{} = {}", "[1] = [1]"),
        *("1 / 0", "1 % 0", "1e300 * 1e300", "[] ? 1 : 2", "[1] & 'a'", "'\\x'"),
        *("$number('a')", "$number('1e999')", "$round(1e300, 2)", "$round(1, 1e9)", "$sqrt(-1)"),
        *(
            "$power(10, 400)",
            "'it\\'s'",
            "$abs()",
            "$abs('a')",
            "$max(['a'])",
            "$replace('a', '', 'b')",
        ),
        *("$replace('a', 'a', 'bb')", "$abs(1, 2)", "$lowercase(1)", "(" * 500 + "1" + ")" * 500),
        *("1" + "+1" * 4000, "-" * 5000 + "1", "true ? " * 1000, "a" + ".a" * 4000),
        "a" * (MAX_LENGTH + 1),
    ],
)
def test_what_is_wrong_or_not_supported_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedExpressionError):
        Expression(text).evaluate(CONTEXT)


def doubled(start: str, step: str) -> str:
    return f"($x := {start}; " + f"$x := {step}; " * ((MAX_LENGTH - 50) // (len(step) + 7)) + "$x)"


@pytest.mark.parametrize(
    "text",
    [
        doubled('"aa"', "$x & $x"),
        doubled("[1, 2]", "[$x, $x]"),
        "[" + "[1,2]," * 1600 + "1]",
        "($x := [" + "1," * 2000 + "1]; " + "$sum($x);" * 600 + "1)",
        "($x := '" + "a" * 4000 + "'; " + "$uppercase($x);" * 390 + "1)",
        "(" + "".join(f"$a{n}:={n};" for n in range(400)) + "(1);" * 1000 + "1)",
        "/* " * 3000,
        '"' * 9_999,
        '\\"' * 4_999,
        "[" * 9_999,
        "{" * 9_999,
        "1" * 9_999,
    ],
    ids=lambda text: text[:20],
)
def test_no_expression_takes_long(text: str) -> None:
    def evaluate() -> None:
        with contextlib.suppress(UnsupportedExpressionError):
            Expression(text).evaluate(CONTEXT)

    assert least_seconds(evaluate) < 0.5


PARTS = st.sampled_from(
    [
        *("1", "2.5", '"a"', "true", "null", "widgets.n", "widgets.size", "widgets.none", "$x"),
        *("inputs.image.connected", "[1, 2]", '{"a": 1}', "widgets.other"),
    ]
)
OPERATORS = st.sampled_from(
    ["+", "-", "*", "/", "%", "&", "=", "!=", "<", "<=", ">", ">=", "and", "or", "in"]
)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.tuples(inner, OPERATORS, inner).map(" ".join)
        | st.tuples(inner, inner, inner).map("({0[0]} ? {0[1]} : {0[2]})".format)
        | st.tuples(inner, inner).map("($x := {0[0]}; {0[1]})".format)
        | st.tuples(st.sampled_from(["abs", "round", "string", "not"]), inner).map(
            "${0[0]}({0[1]})".format
        )
    )


@given(st.recursive(PARTS, combined, max_leaves=8))
def test_a_value_that_is_given_is_that_of_jsonata(text: str) -> None:
    try:
        value = Expression(text).evaluate(CONTEXT)
    except UnsupportedExpressionError:
        return
    try:
        expected = Jsonata(text).evaluate(CONTEXT)
    except JException as error:
        raise AssertionError(f"JSONata refuses {text!r}: {error}") from None
    if isinstance(value, float) and not isinstance(expected, bool):
        assert math.isclose(value, expected, rel_tol=1e-12)
    else:
        assert value == expected or (value is MISSING and expected is None)


@given(st.text("(){}[]?:;,.$ax\"'`/*+-=1<&\\ ", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(UnsupportedExpressionError):
        Expression(text).evaluate(CONTEXT)
