"""All defects that can be planted in a module: small changes of its code, found in its syntax tree.

A defect is text in the place of other text, so that all other lines stay where they are. Log lines,
docstrings, metrics and the sentences of errors have none, nor has what runs as a module is
imported.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: What the kinds of defects change.
KINDS = {
    "left out": "a statement that has an effect, or leaves a block, is left out",
    "negated": "a condition, or a part of one, is negated",
    "always": "a condition, or a part of one, is evaluated and does not matter",
    "shifted": "a comparison is shifted by one",
    "not awaited": "a call runs beside, and nobody waits for its end",
    "other argument": "an argument is another parameter of its type, or the other truth value",
    "passes": "an exception is caught and forgotten",
    "ignored": "the result of a call is ignored",
}

_SHIFTED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
_LOGGERS = frozenset({"log", "_log", "logger", "structlog", "contextvars"})
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Defect:
    """A defect: from the byte `start` to `end` a module has `text`.

    A probe tells that its place has run: a call before a statement, or around an expression, from
    `probe_start` to `probe_end`.
    """

    module: str
    line: int
    name: str
    kind: str
    start: int
    end: int
    text: str
    probe_start: int
    probe_end: int
    is_statement: bool

    @property
    def room(self) -> str:
        """The folder of the module."""
        return self.module.partition("/")[0]

    def planted(self, source: bytes) -> bytes:
        """Return the source of the module with the defect."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def defects_of(module: str, source: bytes) -> list[Defect]:
    """Return all defects of a module, by their places. `module` is its path below `proxy/`."""
    finder = _Finder(module, source)
    finder.visit(ast.parse(source))
    names: Counter[str] = Counter()
    defects = []
    for defect in sorted(finder.found, key=lambda each: (each.start, each.end, each.kind)):
        names[defect.name] += 1
        again = f" #{count}" if (count := names[defect.name]) > 1 else ""
        defects.append(Defect(**{**vars(defect), "name": defect.name + again}))
    return defects


def probed(source: bytes, defects: Iterable[tuple[int, Defect]]) -> bytes:
    """Return the source of a module with a probe at each of its defects, which have numbers."""
    inserts: list[tuple[int, int, int, str]] = []
    for number, defect in defects:
        start, end = defect.probe_start, defect.probe_end
        if defect.is_statement:
            inserts.append((start, 1, -source_end(source), f"_hit({number}); "))
        else:
            # Where several begin, the longest is first; where several end, the shortest.
            inserts.append((start, 1, -end, f"(_hit({number}) and ("))
            inserts.append((end, 0, -start, "))"))
    pieces, at = [], 0
    for place, _, _, text in sorted(inserts, key=lambda insert: insert[:3]):
        pieces += [source[at:place], text.encode()]
        at = place
    changed = b"".join((*pieces, source[at:]))
    future = b"from __future__ import annotations"
    return changed.replace(future, future + b"; from proxy._hits import hit as _hit", 1)


def source_end(source: bytes) -> int:
    """Return a place behind all others."""
    return len(source) + 1


class _Finder(ast.NodeVisitor):
    def __init__(self, module: str, source: bytes) -> None:
        self._module, self._source = module, source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._names: list[str] = []
        self._functions: list[_Function] = []
        #: The handlers after which functions end.
        self._last: set[int] = set()
        self.found: list[Defect] = []

    # --- text ------------------------------------------------------------------------------

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _add(
        self,
        kind: str,
        node: ast.expr | ast.stmt,
        text: str,
        *,
        until: int | None = None,
        probe: ast.expr | None = None,
        what: str = "",
    ) -> None:
        function = ".".join(self._names)
        shown = what or " ".join(ast.unparse(node).split())
        place = probe or node
        self.found.append(
            Defect(
                self._module,
                node.lineno,
                f"{self._module} {function}: {kind}: {shown[:90]}",
                kind,
                self._start(node),
                until or self._end(node),
                text,
                self._start(place),
                self._end(place),
                is_statement=isinstance(place, ast.stmt),
            )
        )

    # --- what is looked at -----------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._names.append(node.name)
        for each in node.body:
            if isinstance(each, ast.ClassDef | _Function):
                self.visit(each)
        self._names.pop()

    def visit_Module(self, node: ast.Module) -> None:
        for each in node.body:
            if isinstance(each, ast.ClassDef | _Function):
                self.visit(each)

    def visit_FunctionDef(self, node: _Function) -> None:
        self._names.append(node.name)
        self._functions.append(node)
        if isinstance(last := node.body[-1], ast.Try) and not last.finalbody:
            self._last |= set(map(id, last.handlers))
        for statement in node.body:
            if not _is_docstring(statement):
                self.visit(statement)
        self._functions.pop()
        self._names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 (the name is of `ast`)

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.JoinedStr | ast.Lambda) or _is_left_out(node):
            return  # the places of what is in an f-string are not known
        if isinstance(node, ast.stmt) and self._functions:
            self._statement(node)
        if isinstance(node, ast.Raise):
            return
        super().visit(node)

    # --- statements ------------------------------------------------------------------------

    def _statement(self, node: ast.stmt) -> None:
        if self._matters(node):
            self._add("left out", node, "pass")
        match node:
            case ast.Expr(ast.Await(value)):
                beside = f'__import__("asyncio").ensure_future({self._text(value)})'
                self._add("not awaited", node, beside)
            case ast.Return(ast.Call() | ast.Await(ast.Call())):
                call = node.value.value if isinstance(node.value, ast.Await) else node.value
                if not next(_path(call.func), "A").lstrip("_")[:1].isupper():  # no class
                    self._add("ignored", node, self._text(node.value))
            case ast.With(items) | ast.AsyncWith(items):
                first, end = items[0].context_expr, self._end(items[-1].context_expr)
                plain = not any(
                    each.optional_vars or _is_left_out(each.context_expr) for each in items
                )
                if plain and self._source[end : end + 1] == b":":
                    what = " ".join(ast.unparse(node).split())
                    self._add("left out", node, "if True", until=end, probe=first, what=what)

    def _matters(self, node: ast.stmt) -> bool:
        """Return whether a statement can be left out, and the code still runs."""
        function = self._functions[-1]
        match node:
            case ast.Expr(ast.Call() | ast.Await()):
                return True
            case ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break() | ast.Raise():
                return True
            case ast.Return():
                return node is not function.body[-1]
            case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
                if node.value is None or function.name in ("__init__", "__post_init__"):
                    return False
                if isinstance(target, ast.Name):
                    return target.id in _bound_before(function, node)
                return isinstance(target, ast.Attribute | ast.Subscript)
        return False

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        passes = all(isinstance(each, ast.Pass | ast.Continue) for each in node.body)
        passes |= id(node) in self._last and _returns_nothing(node.body[0])
        if node.type is not None and not passes and not all(map(_is_left_out, node.body)):
            what = f"except {ast.unparse(node.type)}"
            end = self._end(node.body[-1])
            self._add("passes", node.body[0], "pass", until=end, probe=node.type, what=what)
        for statement in node.body:
            self.visit(statement)

    # --- conditions ------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        if not all(map(_is_left_out, (*node.body, *node.orelse))):
            self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negated(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._condition(test)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        returns = self._functions[-1].returns if self._functions else None
        is_bool = isinstance(returns, ast.Name) and returns.id == "bool"
        if is_bool and isinstance(node.value, ast.BoolOp | ast.Compare | ast.UnaryOp):
            self._condition(node.value)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        """Add what can be wrong with a condition, and with each part of one."""
        self._negated(test)
        self._always(test, "True")
        if isinstance(test.operand if isinstance(test, ast.UnaryOp) else test, _CALLS):
            self._always(test, "False")
        if isinstance(test, ast.BoolOp):
            for part in test.values:
                self._negated(part)
                self._always(part, "True" if isinstance(test.op, ast.And) else "False")

    def _negated(self, test: ast.expr) -> None:
        self._add("negated", test, f"(not ({self._text(test)}))")

    def _always(self, test: ast.expr, value: str) -> None:
        operator = "or" if value == "True" else "and"
        what = f"{' '.join(ast.unparse(test).split())} is {value}"
        self._add("always", test, f"(({self._text(test)}) {operator} {value})", what=what)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and (operator := _SHIFTED.get(type(node.ops[0]))):
            left, right = self._text(node.left), self._text(node.comparators[0])
            self._add("shifted", node, f"(({left}) {operator} ({right}))")
        self.generic_visit(node)

    # --- arguments -------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        named = [keyword.value for keyword in node.keywords if keyword.arg != "strict"]
        for argument in (*node.args, *named):
            if other := self._other(argument):
                call = " ".join(ast.unparse(node).split())
                what = f"{other} as {ast.unparse(argument)} in {call}"
                self._add("other argument", argument, other, what=what)
        self.generic_visit(node)

    def _other(self, argument: ast.expr) -> str | None:
        """Return what has the same type as an argument."""
        if isinstance(argument, ast.Constant) and isinstance(argument.value, bool):
            return str(not argument.value)
        if not isinstance(argument, ast.Name) or not self._functions:
            return None
        arguments = self._functions[-1].args
        types = {
            each.arg: ast.unparse(each.annotation)
            for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            if each.annotation is not None
        }
        if (type_ := types.get(argument.id)) is None:
            return None
        return next((name for name in types if types[name] == type_ and name != argument.id), None)


_CALLS = ast.Call | ast.Await


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _returns_nothing(node: ast.stmt) -> bool:
    match node:
        case ast.Return(None) | ast.Return(ast.Constant(None)):
            return True
    return False


def _is_left_out(node: ast.AST) -> bool:
    """Return whether a node is a log line or a metric."""
    match node:
        case ast.Expr(value) | ast.Await(value) | ast.Return(value):
            return value is not None and _is_left_out(value)
        case ast.Call():
            return any(name in _LOGGERS or "metric" in name.lower() for name in _path(node.func))
    return False


def _path(node: ast.AST) -> Iterator[str]:
    """Yield the names of what is called: `a`, `b` and `c` of `a.b().c`."""
    match node:
        case ast.Name(name):
            yield name
        case ast.Attribute(value, name):
            yield name
            yield from _path(value)
        case ast.Call(function):
            yield from _path(function)


def _bound_before(function: _Function, statement: ast.stmt) -> set[str]:
    """Return the names that a function has bound when it comes to a statement."""
    arguments = function.args
    names = {each.arg for each in (*arguments.args, *arguments.kwonlyargs)}
    for node in ast.walk(function):
        is_bound = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        if is_bound and (node.lineno, node.col_offset) < (statement.lineno, statement.col_offset):
            names.add(node.id)
    return names
