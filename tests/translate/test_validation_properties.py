"""Random graphs: right ones, ones with a single fault, and any JSON, also against the simulator."""

from __future__ import annotations

import copy
from typing import Any

from catalog_graphs import FILE, Graph, faults, good_graphs, reached, shapes
from hypothesis import given
from hypothesis import strategies as st
from oracle_nodes import ORACLE_NODES

from proxy.simulator import validation as cloud
from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.validation import Validation, validate

NODES = standard_nodes() | {node.name: node for node in ORACLE_NODES}
CLASSES = object_info(standard_nodes())
ALL_CLASSES = object_info(NODES)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["1", "2", "abc", 10**400, FILE, "IMAGE"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(st.sampled_from(["1", "2", "3", "9"]), st.integers(-1, 3)).map(list)
        | st.dictionaries(st.sampled_from(["__value__", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def has_file(name: str) -> bool:
    return name == FILE


def check(graph: Any, classes: Any = CLASSES, targets: list[str] | None = None) -> Validation:
    before = copy.deepcopy(graph)
    found = validate(graph, targets, shapes(classes), has_file=has_file)
    assert repr(graph) == repr(before)
    return found


def errors(node_errors: dict[str, Any]) -> dict[str, list[str]]:
    return {
        node_id: [reason["type"] for reason in about["errors"]]
        for node_id, about in node_errors.items()
    }


@given(graph=good_graphs(CLASSES))
def test_a_graph_that_is_right_by_the_catalog_has_no_error(graph: Graph) -> None:
    found = check(graph)
    assert found.faultless
    ends = [node_id for node_id in graph if CLASSES[graph[node_id]["class_type"]]["output_node"]]
    assert found.outputs == ends


@given(data=st.data(), graph=good_graphs(CLASSES))
def test_a_single_fault_is_called_by_its_name_and_nothing_else_is(
    data: st.DataObject, graph: Graph
) -> None:
    fault = data.draw(st.sampled_from(faults(graph, CLASSES)))
    inputs = graph[fault.node_id]["inputs"]
    if fault.put is ...:
        del inputs[fault.name]
    else:
        inputs[fault.name] = fault.put
    found = check(graph)
    (called,) = errors(found.node_errors)[fault.node_id]
    assert called.replace("_inner", "") == fault.called
    assert list(found.node_errors) == [fault.node_id]
    spoilt = set(found.node_errors[fault.node_id]["dependent_outputs"])
    assert spoilt
    assert spoilt.isdisjoint(found.outputs)
    assert (found.error is None) is bool(found.outputs)


@given(data=st.data(), graph=good_graphs(CLASSES))
def test_a_class_that_there_is_not_is_found_wherever_it_is(
    data: st.DataObject, graph: Graph
) -> None:
    node_id = data.draw(st.sampled_from(list(graph)))
    graph[node_id]["class_type"] = "NoSuchNode"
    found = check(graph)
    assert found.error is not None
    assert found.error["type"] == "missing_node_type"
    assert found.error["extra_info"]["node_id"] == node_id


@given(graph=good_graphs(CLASSES), data=st.data())
def test_targets_leave_the_rest_alone(graph: Graph, data: st.DataObject) -> None:
    ends = check(graph).outputs
    targets = data.draw(st.lists(st.sampled_from(ends), min_size=1, unique=True))
    assert sorted(check(graph, targets=targets).outputs) == sorted(targets)


@given(classes=st.sampled_from([CLASSES, ALL_CLASSES]), data=st.data())
def test_only_what_the_cloud_refuses_is_refused(classes: Any, data: st.DataObject) -> None:
    graph = data.draw(good_graphs(classes))
    places = [
        (node_id, name) for node_id in reached(graph, classes) for name in graph[node_id]["inputs"]
    ]
    for node_id, name in data.draw(st.lists(st.sampled_from(places), max_size=3, unique=True)):
        graph[node_id]["inputs"][name] = data.draw(json_values)
    if data.draw(st.integers(0, 9)) == 0:
        graph[data.draw(st.sampled_from(sorted(graph)))]["inputs"] = data.draw(json_values)
    ours = check(graph, classes)
    theirs = cloud.validate(copy.deepcopy(graph), catalog=NODES, targets=None, files=has_file)
    assert set(ours.outputs) >= set(theirs.outputs)
    if ours.error is not None:
        assert theirs.error is not None
        assert theirs.error["type"] == ours.error["type"]
    if any(is_of_a_pack(classes[node["class_type"]]) for node in graph.values()):
        return
    for node_id, about in ours.node_errors.items():
        messages = [
            (error["type"], error["details"]) for error in theirs.node_errors[node_id]["errors"]
        ]
        for error in about["errors"]:
            assert (error["type"], error["details"]) in messages or "exception" in messages[0][0]


@given(data=st.data(), graph=good_graphs(CLASSES))
def test_the_graph_is_kept_as_the_cloud_converts_it(data: st.DataObject, graph: Graph) -> None:
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, int | float):
                forms = [value, str(value), float(value)]
                forms += [int(value)] * (value == int(value))
                put = data.draw(st.sampled_from(forms))
                node["inputs"][name] = data.draw(st.sampled_from([put, {"__value__": put}]))
    ours = check(graph)
    theirs = copy.deepcopy(graph)
    cloud.validate(theirs, catalog=NODES, targets=None, files=has_file)
    assert repr(ours.kept(graph)) == repr(theirs)
    assert not check(theirs).converted


def is_of_a_pack(info: dict[str, Any]) -> bool:
    return str(info["python_module"]).startswith("custom_nodes")


nodes = json_values | st.fixed_dictionaries(
    {},
    optional={
        "class_type": st.sampled_from(sorted(ALL_CLASSES)) | json_values,
        "inputs": json_values
        | st.dictionaries(
            st.sampled_from(["images", "image", "value", "x", "text", "seed"]), json_values
        ),
        "_meta": json_values,
    },
)


@given(graph=st.dictionaries(st.sampled_from(["1", "2", "3", ""]), nodes))
def test_any_json_is_judged(graph: Any) -> None:
    check(graph, ALL_CLASSES)


@given(
    graph=st.dictionaries(st.sampled_from(["1", "2", "3"]), nodes, min_size=1),
    spec=st.lists(json_values, max_size=3) | json_values,
    info=json_values,
)
def test_any_catalog_is_read(graph: Any, spec: Any, info: Any) -> None:
    odd = {
        "input": {"required": {"x": spec}, "optional": {"images": spec}},
        "output": info,
        "output_node": True,
        "python_module": "nodes",
    }
    for class_type, entry in (("Odd", odd), ("Odder", info)):
        for node in graph.values():
            if isinstance(node, dict):
                node["class_type"] = class_type
        check(graph, {"Odd": odd, "Odder": entry})
