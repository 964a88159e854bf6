"""Log events have one style, so that they can be searched: `noun_verb`, in the past, and fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "proxy"
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
LOGGERS = frozenset({"log", "_log", "logger"})
#: Past participles that do not end in `ed`, and particles behind one (`timed_out`).
IRREGULAR = frozenset({"lost", "sent", "read", "begun", "left", "found", "made", "kept", "written"})
PARTICLES = frozenset({"in", "out", "off", "up"})


def events(path: Path) -> Iterator[tuple[int, ast.expr, list[str | None]]]:
    """The line, the event and the names of the fields of each log call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in LOGGERS
            and node.args
        ):
            yield node.lineno, node.args[0], [keyword.arg for keyword in node.keywords]


def is_noun_verb(event: str) -> bool:
    if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", event) is None:
        return False
    words = event.split("_")
    if words[-1] in PARTICLES:
        words.pop()
    return len(words) > 1 and (
        words[-1] in IRREGULAR or (words[-1].endswith("ed") and not words[-1].startswith("un"))
    )


def test_every_log_event_is_noun_verb_with_fields_in_snake_case() -> None:
    odd = [
        (path.name, line, ast.unparse(event))
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, event, fields in events(path)
        if not isinstance(event, ast.Constant)
        or not is_noun_verb(str(event.value))
        or not all(re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name) for name in fields if name)
    ]
    assert not odd


@pytest.mark.parametrize(
    ("event", "good"),
    [
        ("job_ended", True),
        ("headers_timed_out", True),
        ("event_socket_lost", True),
        ("ended", False),
        ("job_unsaved", False),
        ("not_ready", False),
        ("a job has ended", False),
    ],
)
def test_what_noun_verb_is(event: str, good: bool) -> None:
    assert is_noun_verb(event) is good
