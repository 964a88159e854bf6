"""The shape of a graph, and the signatures of its nodes."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate.graph_shape import MAX_NODES, shape_of, signatures_of


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


CHAIN: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"image": "a.png"}},
    "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "width": 8}},
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "Load", "inputs": {"image": "a.png"}},
    "5": {"class_type": "Scale", "inputs": {"image": ["4", 0], "width": 8}},
    "6": {"class_type": "Scale", "inputs": {"image": ["4", 1], "width": 8}},
    "7": {"class_type": "Scale", "inputs": {"image": ["4", 0], "width": 9}},
    "8": {"class_type": "Scale", "inputs": {"image": ["nowhere", 0], "width": 8}},
}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "4", True),
        ("2", "5", True),
        ("2", "6", False),
        ("2", "7", False),
        ("2", "8", False),
        ("2", "1", False),
    ],
)
def test_nodes_with_the_same_class_values_and_sources_have_one_signature(
    one: str, other: str, same: bool
) -> None:
    signatures = signatures_of(CHAIN, [one, other])
    assert (signatures[one] == signatures[other]) is same


def test_nodes_of_a_cycle_have_signatures() -> None:
    cycle = {node: {"inputs": {"x": [other, 0]}} for node, other in ("ab", "ba")}
    assert signatures_of(cycle, "ab").keys() == {"a", "b"}
