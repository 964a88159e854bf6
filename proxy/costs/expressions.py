"""The part of JSONata in which node classes write their prices, with a bound on all it may take.

JSONata itself is a programming language, and its expressions come from the cloud. Here nothing
repeats: an expression has literals, variables, conditions, operators and the functions of
`FUNCTIONS`, and each of its parts is evaluated at most once. There are no lambdas, regular
expressions, ranges, wildcards or filters, and a path does not go through arrays. An expression that
needs more is refused.

https://docs.jsonata.org
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from proxy.costs.functions import FUNCTIONS
from proxy.costs.values import (
    MISSING,
    UnsupportedExpressionError,
    as_boolean,
    as_number,
    as_text,
    field_of,
    finite,
    is_equal,
    is_in_order,
)
from proxy.translate import codec

#: Characters of an expression, and how deep its parts may be nested: brackets and conditions as
#: they are read, and all parts as they are evaluated.
MAX_LENGTH, MAX_DEPTH, MAX_PARTS_DEPTH = 10_000, 80, 150

#: Units of work of an evaluation: a part, an element of an array and 64 characters of text are one.
MAX_WORK = 20_000

#: Characters that `&` may make.
MAX_TEXT = 10_000


_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+|/\*(?:[^*]|\*(?!/))*(?:\*/)?)"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?)"
    r"|(?P<quoted>`[^`]*`?)"
    r"|(?P<variable>\$[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<operator>:=|!=|<=|>=|[-+*/%=<>&?:;,.(){}\[\]])",
    re.DOTALL,
)

#: A quotation mark of JSON, if it is not escaped.
_QUOTE = re.compile(r'\\.|"', re.DOTALL)

#: How strongly operators bind that follow an operand.
_POWERS: Mapping[str, int] = {
    ".": 75,
    "[": 80,
    "*": 60,
    "/": 60,
    "%": 60,
    "+": 50,
    "-": 50,
    "&": 50,
    **dict.fromkeys(("=", "!=", "<", "<=", ">", ">=", "in"), 40),
    "and": 30,
    "or": 25,
    "?": 20,
    ":=": 10,
}
_UNARY = 70

_CONSTANTS = {"true": True, "false": False, "null": None}

#: An operator or the kind of a part, and its parts.
_Part: TypeAlias = tuple[str, Any]


class Expression:
    """A parsed expression. Raises `UnsupportedExpressionError`."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise UnsupportedExpressionError(f"longer than {MAX_LENGTH} characters")
        self._root = _Parser(text).whole()

    def evaluate(self, context: Mapping[str, Any]) -> Any:
        """Return the value of the expression, `MISSING` where it has none.

        Names at the beginning of paths are looked up in `context`, a JSON object. Numbers are
        floats, as in JSON. Raises `UnsupportedExpressionError`.
        """
        return _Evaluation(context).value(self._root)


class _Parser:
    """Reads an expression by the precedence of its operators (Pratt)."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0
        self._indexes = 0

    def whole(self) -> _Part:
        part = self._expression(0)
        if self._kind != "end":
            raise UnsupportedExpressionError(f"unexpected {self._text!r}")
        return part

    @property
    def _kind(self) -> str:
        return self._tokens[self._place][0]

    @property
    def _text(self) -> str:
        return self._tokens[self._place][1]

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._place]
        self._place += token[0] != "end"
        return token

    def _take(self, *operators: str) -> bool:
        """Go past the next token if it is one of these operators."""
        found = self._kind == "operator" and self._text in operators
        self._place += found
        return found

    def _expect(self, operator: str) -> None:
        if not self._take(operator):
            raise UnsupportedExpressionError(f"{operator!r} expected instead of {self._text!r}")

    def _expression(self, power: int) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UnsupportedExpressionError("nested too deeply")
        left = self._operand()
        while self._infix_power() > power:
            left = self._infix(left)
        self._depth -= 1
        return left

    def _infix_power(self) -> int:
        kind, text = self._tokens[self._place]
        is_word = kind == "name" and text in ("and", "or", "in")
        return _POWERS.get(text, 0) if kind == "operator" or is_word else 0

    def _infix(self, left: _Part) -> _Part:
        _, operator = self._next()
        match operator:
            case ".":
                kind, name = self._next()
                if kind not in ("name", "text", "quoted"):
                    raise UnsupportedExpressionError(f"a step of a path is {name!r}")
                return ("step", (left, name))
            case "[":
                self._indexes += 1
                index = self._expression(0)
                self._expect("]")
                self._indexes -= 1
                return ("index", (left, index))
            case "?":
                then = self._expression(0)
                otherwise = self._expression(0) if self._take(":") else ("literal", MISSING)
                return ("condition", (left, then, otherwise))
            case ":=":
                if left[0] != "variable":
                    raise UnsupportedExpressionError("only a variable can be assigned to")
                return ("assign", (left[1], self._expression(_POWERS[":="] - 1)))
        return ("binary", (operator, left, self._expression(_POWERS[operator])))

    def _operand(self) -> _Part:
        kind, text = self._next()
        match kind, text:
            case ("number", _):
                return ("literal", float(text))
            case ("text", _):
                return ("literal", text)
            case ("name", "true" | "false" | "null"):
                return ("literal", _CONSTANTS[text])
            case ("name", "function"):
                raise UnsupportedExpressionError("lambdas are not supported")
            case ("name" | "quoted", _):
                if self._indexes:  # names of the items, not of the context
                    raise UnsupportedExpressionError("filters are not supported")
                return ("name", text)
            case ("variable", _):
                if self._take("("):
                    return ("call", (text, self._list(")")))
                return ("variable", text)
            case ("operator", "-"):
                return ("negative", self._expression(_UNARY))
            case ("operator", "("):
                return ("block", self._list(")", ";"))
            case ("operator", "["):
                return ("array", self._list("]"))
            case ("operator", "{"):
                return ("object", self._members())
        raise UnsupportedExpressionError(f"unexpected {text!r}")

    def _list(self, end: str, separator: str = ",") -> list[_Part]:
        found: list[_Part] = []
        while not self._take(end):
            found.append(self._expression(0))
            if not self._take(separator):
                self._expect(end)
                break
        return found

    def _members(self) -> list[tuple[_Part, _Part]]:
        found: list[tuple[_Part, _Part]] = []
        while not self._take("}"):
            key = self._expression(0)
            self._expect(":")
            found.append((key, self._expression(0)))
            if not self._take(","):
                self._expect("}")
                break
        return found


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return the tokens of an expression with their kinds; the last one has the kind `end`."""
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise UnsupportedExpressionError(f"unexpected {text[place]!r}")
        place, kind, token = match.end(), match.lastgroup or "", match[0]
        if kind == "space":
            if token.startswith("/*") and (len(token) < 4 or not token.endswith("*/")):
                raise UnsupportedExpressionError("a comment has no end")
            continue
        if kind in ("text", "quoted"):
            token = _unquoted(token)
        found.append((kind, token))
    return [*found, ("end", "the end")]


def _unquoted(token: str) -> str:
    quote, inner = token[0], token[1:-1]
    if len(token) < 2 or token[-1] != quote or (len(inner) - len(inner.rstrip("\\"))) % 2:
        raise UnsupportedExpressionError("a text has no end")
    if "\\" not in inner or quote == "`":
        return inner
    try:
        escaped = _QUOTE.sub(lambda match: '\\"' if match[0] == '"' else match[0], inner)
        found = codec.loads(f'"{escaped}"')
    except ValueError as error:
        raise UnsupportedExpressionError("a text has an unknown escape") from error
    return str(found)


class _Evaluation:
    """One evaluation: its variables and the work that is left to it."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self._context = context
        self._variables: dict[str, Any] = {}
        self._left = MAX_WORK
        self._depth = 0

    def value(self, part: _Part) -> Any:
        self._spend(1)
        self._depth += 1
        if self._depth > MAX_PARTS_DEPTH:
            raise UnsupportedExpressionError("nested too deeply")
        found = self._value(*part)
        self._depth -= 1
        return found

    def _value(self, kind: str, inner: Any) -> Any:
        match kind:
            case "literal":
                return inner
            case "variable":
                return self._variables.get(inner, MISSING)
            case "name":
                return field_of(self._context, inner)
            case "step":
                return field_of(self.value(inner[0]), inner[1])
            case "condition":
                return self.value(inner[1 if as_boolean(self.value(inner[0])) else 2])
            case "assign":
                self._variables[inner[0]] = found = self.value(inner[1])
                return found
            case "call":
                return self._call(inner[0], [self.value(each) for each in inner[1]])
            case "negative":
                found = self.value(inner)
                return found if found is MISSING else -as_number(found)
            case "block":
                return self._block(inner)
            case "array":
                return [found for each in inner if (found := self.value(each)) is not MISSING]
            case "object":
                return self._object(inner)
            case "index":
                return self._item(self.value(inner[0]), self.value(inner[1]))
        return self._binary(*inner)

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise UnsupportedExpressionError("takes too much work")

    def _block(self, parts: Sequence[_Part]) -> Any:
        """Return the last value; what the block assigns is not known outside."""
        outer, found = dict(self._variables), MISSING
        self._spend(len(outer))
        for each in parts:
            found = self.value(each)
        self._variables = outer
        return found

    def _object(self, members: Sequence[tuple[_Part, _Part]]) -> dict[str, Any]:
        found = {}
        for key, each in members:
            name, value = self.value(key), self.value(each)
            if not isinstance(name, str):
                raise UnsupportedExpressionError("the key of a member is not text")
            if value is not MISSING:
                found[name] = value
        return found

    def _item(self, found: Any, index: Any) -> Any:
        if isinstance(index, bool) or not isinstance(index, float):
            raise UnsupportedExpressionError("filters are not supported")
        items = found if isinstance(found, list) else [] if found is MISSING else [found]
        place = math.floor(index)
        return items[place] if -len(items) <= place < len(items) else MISSING

    def _binary(self, operator: str, left: _Part, right: _Part) -> Any:
        first = self.value(left)
        if operator in ("and", "or"):
            decided = as_boolean(first) is (operator == "or")
            return as_boolean(first) if decided else as_boolean(self.value(right))
        second = self.value(right)
        if operator == "&":
            text = as_text(first) + as_text(second)
            if len(text) > MAX_TEXT:
                raise UnsupportedExpressionError("makes too long a text")
            self._spend(len(text) // 64)
            return text
        if operator in ("=", "!="):
            known = first is not MISSING and second is not MISSING
            return known and is_equal(first, second) is (operator == "=")
        if operator == "in":
            items = second if isinstance(second, list) else [second]
            self._spend(len(items))
            return MISSING not in (first, second) and any(is_equal(first, item) for item in items)
        if operator in ("<", "<=", ">", ">="):
            return is_in_order(operator, first, second)
        numbers = [as_number(each) for each in (first, second) if each is not MISSING]
        return finite(_arithmetic(operator, *numbers)) if len(numbers) == 2 else MISSING

    def _call(self, name: str, arguments: list[Any]) -> Any:
        function = FUNCTIONS.get(name)
        if function is None:
            raise UnsupportedExpressionError(f"there is no function {name}")
        size = sum(
            len(each) if isinstance(each, list) else len(each) // 64 if isinstance(each, str) else 0
            for each in arguments
        )
        self._spend(size)
        try:
            return function(*arguments)
        except (TypeError, OverflowError, ValueError, ArithmeticError) as error:
            raise UnsupportedExpressionError(f"{name}: {error}") from error


def _arithmetic(operator: str, first: float, second: float) -> float:
    match operator:
        case "+":
            return first + second
        case "-":
            return first - second
        case "*":
            return first * second
    if not second:
        raise UnsupportedExpressionError("divides by zero")
    return first / second if operator == "/" else math.fmod(first, second)
