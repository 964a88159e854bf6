"""No pattern that meets text of clients or of the cloud costs more than its length.

Every pattern of the package is run over long texts that are made of its own parts.
"""

from __future__ import annotations

import ast
import itertools
import re
import time
from pathlib import Path

import pytest

import proxy

PACKAGE = Path(proxy.__file__).parent
#: Rooms whose patterns meet no text of a stranger.
OURS = ("simulator", "probe", "cli", "settings")
METHODS = {"search", "match", "fullmatch", "sub", "split", "findall", "finditer"}
CALL = re.compile(rf"\bre\.({'|'.join({*METHODS, 'compile'})})\(")
#: Parts of attacks beside the characters of the pattern itself.
PARTS = ["a", "0", " ", "_", "/", ".", "\\", "{", "a.", "_11111a", "/*", "://", "a:", "a@"]
LENGTH = 12_000


def _patterns() -> list[tuple[str, str | bytes, tuple[str, ...]]]:
    """Return where each pattern of the package stands, the pattern, and how it is applied."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE)
        if where.parts[0] in OURS:
            continue
        source = path.read_text()
        if CALL.search(source) is None:  # most files, which need not be parsed
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Assign(
                    targets=[ast.Name(id=name)],
                    value=ast.Call(
                        func=ast.Attribute(value=ast.Name(id="re"), attr="compile"),
                        args=[ast.Constant(value=str() | bytes() as pattern), *_],
                    ),
                ):
                    used = set(re.findall(rf"\b{name}\.(\w+)", source))
                    found.append((f"{where}:{name}", pattern, tuple(sorted(used & METHODS))))
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="re"), attr=method),
                    args=[ast.Constant(value=str() | bytes() as pattern), *_],
                ) if method in METHODS:
                    found.append((f"{where}:{node.lineno}", pattern, (method,)))
    return found


@pytest.mark.parametrize(
    ("pattern", "methods"), [pytest.param(*some[1:], id=some[0]) for some in _patterns()]
)
def test_a_pattern_costs_no_more_than_the_length_of_the_text(
    pattern: str | bytes, methods: tuple[str, ...]
) -> None:
    assert methods, "the pattern is not used where it stands"
    text = pattern.decode() if isinstance(pattern, bytes) else pattern
    compiled = re.compile(text, re.DOTALL | re.IGNORECASE)
    use = compiled.fullmatch if methods == ("fullmatch",) else compiled.search
    words = re.findall(r"[A-Za-z0-9_]{2,}", text)[:3]
    parts = [*PARTS, *words, *sorted({letter for letter in text if not letter.isalnum()})]
    for first, second in itertools.product(["", *words, "a" * 64], parts):
        for end in ("", "\0", "/"):
            attack = first + second * (LENGTH // len(second)) + end
            before = time.process_time()
            use(attack)
            # A few ms; where each start looks at all that follows, over 100 ms.
            assert time.process_time() - before < 0.05, (first, second, end)
