"""Expressions in which node classes write their prices, and what they may cost to evaluate."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest
from cpu_time import least_seconds
from hypothesis import given
from hypothesis import strategies as st

from proxy.costs.expressions import (
    FUNCTIONS,
    MAX_LENGTH,
    MAX_WORDS,
    Expression,
    UnsupportedExpressionError,
)

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

#: Expressions and their values.
VALUES: list[tuple[str, Any]] = [
    ("1", 1),
    ("0.5e1", 5),
    ('"a\\"b\\u0041"', 'a"bA'),
    ('\'a "b" \\\\ \\"\'', 'a "b" \\ "'),
    ("true", True),
    ("/* a price */ 2 /**/ + 0", 2),
    ("widgets.size", "1024x1024"),
    ('widgets."mode.pbr"', False),
    ("widgets.`mode.pbr`", False),
    ("widgets.other", None),
    ("widgets.other.deeper", None),
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
    ("widgets.other + 1", None),
    ("widgets.other < 1", None),
    ('"a" < "b"', True),
    ('widgets.n in [1, 2, 3] ? "few" : "many"', "few"),
    ('"x" in "x"', True),
    ('"a" & 1 & true & null & widgets.other & 0.1', "a1truenull0.1"),
    ("false ? 1", None),
    ("0 ? 1 : 2", 2),
    ('"" ? 1 : 2', 2),
    ("true ? 1 : false ? 2 : 3", 1),
    ("($x := 2; $y := $x * 3; $y + 1)", 7),
    ("($x := 1; ($x := 2; $x) + $x)", 3),
    ("$x", None),
    ("{}", {}),
    ('{"a": 1, "b": widgets.other, "c": {"d": [1, 2]}}', {"a": 1, "c": {"d": [1, 2]}}),
    ("[1, 2, 3][1]", 2),
    ("[1, 2, 3][-1]", 3),
    ("[1, 2][5]", None),
    ("5[0]", 5),
    ('{"min": 0.5}.min', 0.5),
    ('$lookup({"a.b": 4}, "a.b")', 4),
    ('$lookup({"a": 4}, "b")', None),
    ('($p := {"a": {"b": [1, 2]}}; $lookup($lookup($p, "a"), "b")[1])', 2),
    ("$abs(-2)", 2),
    ("$average([1, 2, 6])", 3),
    ("$boolean('')", False),
    ("$ceil(1.2) + $floor(1.8)", 3),
    ("$contains(widgets.size, '1024') and $not($contains(widgets.size, '512'))", True),
    ("$contains(widgets.other, 'a')", None),
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
    ('$join($split("a,b", ","), "-") & $count($keys({"c": 1}))', "a-b1"),
    ('$type(widgets.n) = "number" ? widgets.n : undefined', 3),
    ('$type(widgets.other) = "number" ? 1 : undefined', None),
    ("[1, 2].$string()", ["1", "2"]),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_an_expression_has_a_value(text: str, value: Any) -> None:
    assert Expression(text).evaluate(CONTEXT) == value


def test_every_function_is_among_them() -> None:
    texts = " ".join(text for text, _ in VALUES)
    assert [name for name in FUNCTIONS if f"${name}(" not in texts] == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "(1", "1 2", "1 +", '"open', "'", "`a", "/* a", "# 1"),
        *("$", "$x(1)", "$eval('1')", "$map([1], $abs)", "function($x){$x}(1)", "λ($x){$x}"),
        *("/(a+)+$/", "$contains('a', /a/)", "[1..9]", "*", "**", "a.*", "a ~> $abs", "a^(b)"),
        *(
            "a{b: c}",
            "|a|b|",
            "%.a",
            "a#$i",
            "a@$b",
            "$abs(?)",
            "$random()",
            "$now()",
            "$pad('a', 9)",
        ),
        *("($f := $abs; $f(1))", "($abs := 1; 2)", "($map := 1; $map)", "({}).$abs()(1)"),
        *('"a" + 1', "true + 1", "-'a'", "1 < 'a'", "1e300 * 1e300", "$number('a')"),
        *("$round(1, 1e9)", "$sqrt(-1)", "$power(10, 400)", "$abs('a')", "$max(['a'])"),
        *("(" * 500 + "1" + ")" * 500, "1" + "+1" * 350, "-" * 700 + "1"),
        *("a" * (MAX_LENGTH + 1), "1," * MAX_WORDS),
        "'" + "a" * 1001 + "'",
    ],
)
def test_what_is_wrong_or_not_supported_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedExpressionError):
        Expression(text).evaluate(CONTEXT)


def test_recursion_stays_limited_for_the_process() -> None:
    assert sys.getrecursionlimit() <= 3_000


def repeated(start: str, step: str) -> str:
    return f"($x := {start}; " + f"$x := {step}; " * 70 + "$x)"


@pytest.mark.parametrize(
    "text",
    [
        repeated('"aa"', "$x & $x"),
        repeated("[1, 2]", "[$x, $x]"),
        repeated("{'a': 1}", "{'a': $x, 'b': $x}"),
        repeated("3", "$x * $x"),
        repeated("'ab'", "$replace($x, 'a', $x)"),
        repeated("[1, 2, 3]", "$x[$x[$x = 1] = 1]"),
        "[" + "[1,2]," * 130 + "1]",
        "($x := [" + "1," * 200 + "1]; " + "$sum($x);" * 90 + "1)",
        "($x := '" + "a" * 900 + "'; " + "$uppercase($x);" * 120 + "1)",
        "/* " * 3000,
        '"' * 9_999,
        "1" * 9_999,
        " " * 9_999,
    ],
    ids=lambda text: text[:20],
)
def test_no_expression_takes_long(text: str) -> None:
    def evaluate() -> None:
        with contextlib.suppress(UnsupportedExpressionError):
            Expression(text).evaluate(CONTEXT)

    assert least_seconds(evaluate) < 0.1


@given(st.text("(){}[]?:;,.$ax\"'`/*+-=1<&\\ ", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(UnsupportedExpressionError):
        Expression(text).evaluate(CONTEXT)
