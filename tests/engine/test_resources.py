"""Which output nodes of a job run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jobs.samples import job

from proxy.engine.resources import JobResources

KNOWN: dict[str, dict[str, Any]] = {
    "SaveImage": {"output_node": True},
    "PreviewImage": {"output_node": True},
    "Fox": {"output_node": False},
}
GRAPH = {
    "1": {"class_type": "Fox"},
    "2": {"class_type": "SaveImage"},
    "3": {"class_type": "PreviewImage"},
    "4": {"class_type": "NoSuchNode"},
    "5": "no node",
}


@pytest.mark.parametrize(
    ("targets", "node_errors", "expected"),
    [
        (None, {}, ["2", "3"]),
        (["3"], {}, ["3"]),
        ([], {}, []),
        (None, {"2": {"dependent_outputs": []}}, ["3"]),
        (None, {"1": {"dependent_outputs": ["2", "3"]}}, []),
        (None, {"1": {"dependent_outputs": [3]}}, ["2"]),
    ],
)
def test_the_outputs_of_a_job_are_those_that_passed(
    targets: list[str] | None, node_errors: dict[str, Any], expected: list[str]
) -> None:
    made = job(graph=GRAPH, targets=targets)
    unused: Any = None
    catalog: Any = SimpleNamespace(known=KNOWN.get)
    resources = JobResources(unused, catalog, unused, unused, unused, unused)
    assert resources.output_nodes(made, node_errors) == tuple(expected)
