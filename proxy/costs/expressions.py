"""JSONata, in which node classes write their prices, with bounds on all that an expression takes.

The library `jsonata-python` parses and evaluates. JSONata is a programming language, and its
expressions come from the cloud: what could repeat, or take long in one step, is refused as it is
parsed (lambdas, regular expressions, ranges, wildcards, functions that are not in `FUNCTIONS`), and
each step of an evaluation is charged for the size of its result.

https://docs.jsonata.org
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jsonata import JException, Jsonata
from jsonata.parser import Parser

from proxy.translate.jobs import values_in

#: Characters of an expression and its words and signs, which take 10 µs each to parse.
MAX_LENGTH, MAX_WORDS = 10_000, 800

#: Characters of a text that an expression handles, and how deep its parts are nested.
MAX_TEXT, MAX_DEPTH = 1_000, 60

#: Units of work of an evaluation: a value in the result of a part, and 64 bits or characters of it.
MAX_WORK = 5_000

_WORD = re.compile(r"\w+|[^\w\s]")

#: Bits of a whole number; more are no JSON number of any other program.
_MAX_BITS = 1024

# The library raises the limit of the whole process to 10,000 as it is imported; C code that
# recurses so deep overflows the stack of a thread.
sys.setrecursionlimit(1_000)

#: Functions that an expression may call. Each is linear in its arguments.
FUNCTIONS = frozenset(
    {
        *("abs", "average", "boolean", "ceil", "contains", "count", "exists", "floor", "join"),
        *("keys", "length", "lookup", "lowercase", "max", "min", "not", "number", "power"),
        *("replace", "round", "split", "sqrt", "string", "substring", "substringAfter"),
        *("substringBefore", "sum", "trim", "type", "uppercase"),
    }
)

#: Kinds of parts, and the operators of two of them.
_KINDS = frozenset(
    {
        *("binary", "bind", "block", "condition", "filter", "function", "name", "number"),
        *("path", "string", "unary", "value", "variable"),
    }
)
_OPERATORS = {
    "binary": frozenset({*"+-*/%&=<>", "!=", "<=", ">=", "and", "or", "in"}),
    "unary": frozenset("-[{"),
}

#: Parts that sort, group, number or look back.
_REFUSED = ("group", "focus", "index", "ancestor", "terms", "tuple")

#: What the library raises for a wrong expression, and Python where the library does not check.
_ERRORS = (JException, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class UnsupportedExpressionError(ValueError):
    """Raised for an expression that is wrong, needs what is not supported here, or costs too much
    to evaluate."""


class Expression:
    """A parsed expression. Raises `UnsupportedExpressionError`."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH or len(_WORD.findall(text)) > MAX_WORDS:
            raise UnsupportedExpressionError("it is too long")
        try:
            self._jsonata = Jsonata(text, _refuse_pattern)
        except (*_ERRORS, RecursionError) as error:
            raise UnsupportedExpressionError(str(error)) from None
        self._jsonata.validate_input = self._jsonata.output_convert_nulls = False
        if self._jsonata.errors or self._jsonata.ast is None:
            raise UnsupportedExpressionError("it is incomplete")
        _check(self._jsonata.ast)

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        """Return the value of the expression, `None` where it has none.

        Names at the beginning of paths are looked up in `context`, a JSON object. Raises
        `UnsupportedExpressionError`.
        """
        try:
            return self._jsonata.evaluate(context, {"__evaluate_exit": _Meter()})
        except (*_ERRORS, RecursionError) as error:
            raise UnsupportedExpressionError(str(error)) from None


def _refuse_pattern(_: str, __: object) -> Any:
    raise UnsupportedExpressionError("regular expressions are not supported")


class _Meter:
    """Charges the steps of one evaluation, after each."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def __call__(self, _: object, __: object, ___: object, result: object) -> None:
        """Charge the result of a step. Raises `UnsupportedExpressionError`."""
        for value in values_in(result):
            match value:
                case str():
                    if len(value) > MAX_TEXT:
                        raise UnsupportedExpressionError("makes too long a text")
                    self._left -= 1 + len(value) // 64
                case bool() | float() | None:
                    self._left -= 1
                case int():
                    if value.bit_length() > _MAX_BITS:
                        raise UnsupportedExpressionError("a number is too large")
                    self._left -= 1 + value.bit_length() // 64
                case _:
                    self._left -= 1
            if self._left < 0:
                raise UnsupportedExpressionError("takes too much work")


def _check(root: Parser.Symbol) -> None:
    """Raise `UnsupportedExpressionError` for an expression with a part that is not bounded."""
    pending = [(root, 0, False)]
    while pending:
        part, depth, is_called = pending.pop()
        if depth > MAX_DEPTH:
            raise UnsupportedExpressionError("nested too deeply")
        _check_part(part, is_called=is_called)
        pending += [(inner, depth + 1, name == "procedure") for name, inner in _parts_of(part)]


def _check_part(part: Parser.Symbol, *, is_called: bool) -> None:
    kind, value = part.type, part.value
    if kind not in _KINDS or any(getattr(part, name, None) for name in _REFUSED):
        raise UnsupportedExpressionError(f"{kind} is not supported")
    if value not in _OPERATORS.get(kind, (value,)):
        raise UnsupportedExpressionError(f"{value} is not supported")
    if kind == "variable":
        is_function = Jsonata.static_frame.lookup(value) is not None
        if not value or (value not in FUNCTIONS if is_called else is_function):
            raise UnsupportedExpressionError(f"${value} cannot be used here")
    elif is_called:
        raise UnsupportedExpressionError("only functions can be called")


def _parts_of(part: Parser.Symbol) -> Iterator[tuple[str, Parser.Symbol]]:
    """Yield the parts of a part, at any depth of lists, with the names of their fields."""
    for name, field in vars(part).items():
        pending = [field]
        while pending:
            inner = pending.pop()
            if isinstance(inner, Parser.Symbol):
                yield name, inner
            elif isinstance(inner, list | tuple):
                pending += inner
