"""What the progress of a run says of its nodes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from proxy.cli.progress import Display


@pytest.mark.parametrize(
    ("event", "word"), [("execution_error", "failed"), ("execution_interrupted", "stopped")]
)
def test_a_node_that_was_broken_off_is_not_called_done(event: str, word: str) -> None:
    output = io.StringIO()
    graph = {"1": {"class_type": "KSampler", "inputs": {}}}
    with Display(graph, Console(file=output)) as display:
        display.event("executing", {"node": "1"})
        display.event(event, {"node_id": "1"})
        display.event("executing", {"node": None})
    assert f"{word} KSampler (1)" in output.getvalue()
    assert "done" not in output.getvalue()
