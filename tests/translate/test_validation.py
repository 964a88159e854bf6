"""Faults of graphs, found with the catalog alone."""

from __future__ import annotations

from typing import Any

import pytest
from catalog_graphs import shapes
from validated_graphs import CORE, EMPTY, check, save, types

from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.validation import Validation, validate


def test_a_good_graph_has_its_output_nodes_and_nothing_else() -> None:
    assert check({"1": EMPTY, "2": save()}) == Validation(["2"], {}, None)


@pytest.mark.parametrize(
    ("node", "message", "class_type", "title"),
    [
        (
            {"class_type": "NoSuchNode", "inputs": {}},
            "Node 'NoSuchNode' not found. The custom node may not be installed.",
            "NoSuchNode",
            "NoSuchNode",
        ),
        (
            {"class_type": "NoSuchNode", "_meta": {"title": "Mine"}},
            "Node 'Mine' not found. The custom node may not be installed.",
            "NoSuchNode",
            "Mine",
        ),
        (
            {"class_type": None, "_meta": "odd"},
            "Node 'None' not found. The custom node may not be installed.",
            None,
            None,
        ),
        (
            {"inputs": {}},
            "Node 'ID #1' has no class_type."
            " The workflow may be corrupted or a custom node is missing.",
            None,
            None,
        ),
        (
            {"inputs": {}, "_meta": {"title": "Mine"}},
            "Node 'Mine' has no class_type."
            " The workflow may be corrupted or a custom node is missing.",
            None,
            "Mine",
        ),
    ],
)
def test_an_unknown_class_refuses_the_whole_graph(
    node: Any, message: str, class_type: object, title: object
) -> None:
    assert check({"1": node, "2": save()}) == Validation(
        error={
            "type": "missing_node_type",
            "message": message,
            "details": "Node ID '#1'",
            "extra_info": {"node_id": "1", "class_type": class_type, "node_title": title},
        }
    )


@pytest.mark.parametrize(
    ("targets", "outputs"), [(["3"], ["3"]), (None, ["2", "3"]), (["3", "2", "1"], ["2", "3"])]
)
def test_targets_choose_among_the_output_nodes(
    targets: list[str] | None, outputs: list[str]
) -> None:
    assert check({"1": EMPTY, "2": save(), "3": save()}, targets).outputs == outputs


def test_what_is_not_asked_for_is_not_looked_at() -> None:
    assert check({"1": EMPTY, "2": save(), "3": save(["1"])}, ["2"]) == Validation(["2"])


@pytest.mark.parametrize(
    ("graph", "targets"),
    [({}, None), ({"1": EMPTY}, None), ({"1": EMPTY, "2": save()}, ["1", "9"])],
)
def test_without_an_output_node_there_is_nothing_to_run(
    graph: Any, targets: list[str] | None
) -> None:
    error = check(graph, targets).error
    assert error == {
        "type": "prompt_no_outputs",
        "message": "Prompt has no outputs",
        "details": "",
        "extra_info": {},
    }


def test_good_outputs_run_beside_bad_ones() -> None:
    found = check({"1": EMPTY, "2": save(), "3": save(["1"]), "4": save(["3", 0])})
    assert found.error is None
    assert found.outputs == ["2"]
    assert list(found.node_errors) == ["3", "4"]
    assert found.node_errors["3"]["dependent_outputs"] == ["3", "4"]


def test_a_link_to_nowhere_further_up_is_reported_for_the_inner_node() -> None:
    inner = {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}}
    (reason,) = check({"1": inner, "2": save()}).node_errors["1"]["errors"]
    assert reason["type"] == "exception_during_inner_validation"
    assert reason["details"] == "'9'"
    assert reason["extra_info"]["input_name"] == "images"
    assert reason["extra_info"]["linked_node"] == ["1", 0]


def test_a_cycle_is_reported_for_all_its_nodes() -> None:
    graph = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": save(),
    }
    found = check(graph)
    assert found.error is not None
    assert found.error["type"] == "prompt_outputs_failed_validation"
    assert list(found.node_errors) == ["1", "2"]
    assert found.node_errors["2"]["errors"] == [
        {
            "type": "dependency_cycle",
            "message": "Dependency cycle detected",
            "details": "1 (ImageInvert) -> 2 (ImageInvert) -> 1 (ImageInvert)",
            "extra_info": {"node_id": "2", "cycle_nodes": ["1", "2"]},
        }
    ]


def test_a_node_that_is_linked_to_itself_is_a_cycle() -> None:
    graph = {"1": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "2": save()}
    assert types(check(graph)) == ["dependency_cycle"]


def test_a_chain_of_ten_thousand_nodes_is_looked_at_whole() -> None:
    graph: dict[str, Any] = {"0": EMPTY}
    for number in range(1, 10_000):
        graph[str(number)] = {
            "class_type": "ImageInvert",
            "inputs": {"image": [str(number - 1), 0]},
        }
    graph["end"] = save(["9999", 0])
    assert check(graph).outputs == ["end"]
    graph["0"] = {"class_type": "EmptyImage", "inputs": {}}
    assert len(types(check(graph), "0")) == 4


def test_a_graph_of_nothing_but_faults_has_an_answer_of_bounded_size() -> None:
    graph = {str(number): {"class_type": "SaveImage", "inputs": {}} for number in range(5000)}
    found = check(graph)
    assert found.error is not None
    assert sum(len(error["dependent_outputs"]) for error in found.node_errors.values()) == 25_000


def kept(**inputs: Any) -> dict[str, Any]:
    info = {
        "input": {
            "required": {
                "int": ["INT", {}],
                "float": ["FLOAT", {}],
                "string": ["STRING", {}],
                "boolean": ["BOOLEAN", {}],
                "combo": [["a", "b"], {"multiselect": True}],
            }
        },
        **CORE,
        "output_node": True,
    }
    usual = {"int": 1, "float": 1.0, "string": "", "boolean": True, "combo": "a"}
    graph = {"1": {"class_type": "Typed", "inputs": usual | inputs, "_meta": {"title": "T"}}}
    found = validate(graph, None, shapes({"Typed": info}), has_file=lambda _: False)
    shown = found.kept(graph)
    assert shown["1"]["_meta"] == {"title": "T"}
    return dict(shown["1"]["inputs"])


@pytest.mark.parametrize(
    ("name", "given", "shown"),
    [
        ("int", "7", 7),
        ("int", 7.9, 7),
        ("int", 2**64, 2**64),
        ("float", 8, 8.0),
        ("float", "0.5", 0.5),
        ("string", 5, "5"),
        ("boolean", 0, False),
        ("boolean", "no", True),
        ("int", {"__value__": "7"}, 7),
        ("combo", {"__value__": "b"}, "b"),
        ("combo", {"__value__": ["a", "b"]}, {"__value__": ["a", "b"]}),
        ("float", "nan", "nan"),
        ("other", "7", "7"),
    ],
)
def test_values_are_kept_in_the_types_of_their_inputs(name: str, given: Any, shown: Any) -> None:
    assert repr(kept(**{name: given})[name]) == repr(shown)


def test_a_graph_of_the_right_types_is_kept_as_it_is() -> None:
    graph = {"1": EMPTY, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    found = validate(graph, None, shapes(object_info(standard_nodes())), has_file=lambda _: False)
    assert found.converted == {}
    assert all(found.kept(graph)[node_id] is node for node_id, node in graph.items())
