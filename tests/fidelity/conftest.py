"""Sums up how much of the recorded traffic is answered alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = {"answer": "recorded responses", "websocket": "recorded websockets"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """`N of M, deviations: …`, from what the tests found (also those of other processes)."""
    kinds: Counter[str] = Counter()
    alike: Counter[str] = Counter()
    newer: Counter[str] = Counter()
    deviations: Counter[str] = Counter()
    for kind, reasons in _found(terminalreporter):
        kinds[kind] += 1
        alike[kind] += not reasons
        newer[kind] += bool(reasons) and all(reason.startswith("Newest: ") for reason in reasons)
        deviations.update(reasons)
    if not kinds:
        return
    terminalreporter.section("fidelity to a recorded ComfyUI")
    for kind, name in NAMES.items():
        line = f"{alike[kind]} of {kinds[kind]} {name} match"
        terminalreporter.line(f"{line}, {newer[kind]} more are as the newest ComfyUI has them")
    terminalreporter.line("deviations:")
    for reason, count in deviations.most_common():
        terminalreporter.line(f"  {count:4}  {reason}")


def _found(terminalreporter: Any) -> Iterator[tuple[str, list[str]]]:
    reports: list[pytest.TestReport] = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
    ]
    for report in reports:
        for name, value in report.user_properties:
            if name == "fidelity":
                yield tuple(value)
