"""The shape of a graph."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate.graph_shape import MAX_NODES, shape_of


def graph(**changes: Any) -> dict[str, Any]:
    inputs = {"model": ["1", 0], "seed": 5, "steps": 20, **changes}
    return {
        "1": {"class_type": "Load", "inputs": {"name": "x"}},
        "2": {"class_type": "Sample", "inputs": inputs},
    }


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (graph(seed=6, steps=30), True),
        (dict(reversed(graph().items())), True),
        (graph(model=["1", 1]), False),
        (graph(latent=["1", 0]), False),
        ({**graph(), "3": {"class_type": "Save", "inputs": {}}}, False),
        ({**graph(), "1": {"class_type": "Other", "inputs": {}}}, False),
    ],
)
def test_a_shape_is_nodes_and_links_whatever_the_values_are(
    other: dict[str, Any], same: bool
) -> None:
    assert (shape_of(graph()) == shape_of(other)) is same


@pytest.mark.parametrize("node", [None, [], {}, {"inputs": None}, {"class_type": 5, "inputs": {}}])
def test_an_odd_node_has_a_shape(node: Any) -> None:
    assert shape_of({"1": node, "\ud800": node}) is not None


def test_a_huge_graph_has_no_shape() -> None:
    assert shape_of({str(number): {} for number in range(MAX_NODES + 1)}) is None
