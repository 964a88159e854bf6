"""Every word of the cloud that the proxy decides by has its source in the documents."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from proxy.simulator import jobs
from proxy.translate import errors, events
from proxy.translate.snapshots import STATUSES

ROOT = Path(__file__).parents[2]
PAGE, ONLY_SIMULATED = (
    (ROOT / "docs/words.md").read_text(encoding="utf-8").split("## What only the simulator says")
)
SOURCED = set(re.findall(r"`([^`\s]+)`", PAGE))
KNOWN = SOURCED | set(re.findall(r"`([^`\s]+)`", ONLY_SIMULATED))

#: The proxy's own words for refusals of a download.
OWN = {"STORAGE_REFUSED", "REDIRECT_REFUSED"}


def test_refusals() -> None:
    sourced = {word.upper() for word in SOURCED}
    assert sourced >= errors._BILLING | errors._NOT_NOW
    assert set(errors._WAYS_OUT) - OWN <= sourced


def test_states() -> None:
    assert set(STATUSES) <= SOURCED
    assert set(STATUSES) >= {*jobs.FRIENDLY, *jobs.SPECIFIED.values()}
    assert {state: STATUSES[state] for state in jobs.FRIENDLY} == jobs.FRIENDLY, (
        "the simulator and the proxy read a state alike"
    )


def test_messages() -> None:
    assert events.TERMINAL_EVENTS | events._CLOUD_ONLY <= SOURCED


def test_codes_of_the_simulator() -> None:
    seen = set()
    for path in (ROOT / "proxy/simulator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("flat", "Refusal"):
                seen |= {a.value for a in node.args if _is_code(a)}  # type: ignore[attr-defined]
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "flat":
                seen |= {a.value for a in node.args if _is_code(a)}  # type: ignore[attr-defined]
    assert "TOO_MANY_CONNECTIONS" in seen
    assert seen <= KNOWN


def _is_code(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and bool(re.fullmatch(r"[A-Z_]{3,}", node.value))
    )
