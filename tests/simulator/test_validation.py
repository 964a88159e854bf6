"""What a graph's faults are called; the texts are those of recorded answers of ComfyUI."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_nodes import ORACLE_NODES

from proxy.simulator.nodes import standard_nodes
from proxy.simulator.validation import GraphVerdict, validate
from proxy.translate import codec

CATALOG = standard_nodes() | {node.name: node for node in ORACLE_NODES}
EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}
FULL = {
    "int": 1,
    "float": 0.5,
    "string": "s",
    "boolean": True,
    "combo": "a",
    "numbers": 2,
    "long_combo": "option 3",
    "empty_combo_ok": "only",
}
FLOAT = ["FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.1, "round": 0.01}]
INT = ["INT", {"default": 1, "min": 0, "max": 10}]


def save(source: object = None, **inputs: Any) -> dict[str, Any]:
    images = ["1", 0] if source is None else source
    return {
        "class_type": "SaveImage",
        "inputs": {"images": images, "filename_prefix": "x"} | inputs,
    }


def check(
    graph: object, targets: list[str] | None = None, known: tuple[str, ...] = ()
) -> GraphVerdict:
    return validate(graph, catalog=CATALOG, targets=targets, files=known.__contains__)


def reasons(graph: dict[str, Any], node_id: str = "1") -> list[dict[str, Any]]:
    found = check(graph).node_errors[node_id]["errors"]
    assert isinstance(found, list)
    return found


def of_inputs(**changes: object) -> dict[str, Any]:
    return {"1": {"class_type": "OracleInputs", "inputs": FULL | changes}}


def test_a_good_graph_has_its_output_nodes_and_nothing_else() -> None:
    assert check({"1": EMPTY, "2": save()}) == GraphVerdict(["2"], {}, None)


@pytest.mark.parametrize("graph", [None, 5, "x", [EMPTY]])
def test_a_prompt_that_is_no_object_is_an_invalid_prompt(graph: object) -> None:
    error = check(graph).error
    assert error is not None
    assert error["type"] == "invalid_prompt"


@pytest.mark.parametrize("graph", [{}, "", [], {"1": EMPTY}])
def test_a_prompt_without_an_output_node_says_so(graph: object) -> None:
    assert check(graph).error == {
        "type": "prompt_no_outputs",
        "message": "Prompt has no outputs",
        "details": "",
        "extra_info": {},
    }


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
            {"class_type": "NoSuchNode", "inputs": {}, "_meta": {"title": "Mine"}},
            "Node 'Mine' not found. The custom node may not be installed.",
            "NoSuchNode",
            "Mine",
        ),
        (
            {"inputs": {}},
            "Node 'ID #1' has no class_type."
            " The workflow may be corrupted or a custom node is missing.",
            None,
            None,
        ),
        (
            None,
            "Node 'ID #1' has no class_type."
            " The workflow may be corrupted or a custom node is missing.",
            None,
            None,
        ),
    ],
)
def test_an_unknown_class_is_a_missing_node_type(
    node: object, message: str, class_type: object, title: object
) -> None:
    found = check({"1": node, "2": save()})
    assert found.node_errors == {}
    assert found.error == {
        "type": "missing_node_type",
        "message": message,
        "details": "Node ID '#1'",
        "extra_info": {"node_id": "1", "class_type": class_type, "node_title": title},
    }


@pytest.mark.parametrize(
    ("targets", "outputs"), [(["3"], ["3"]), (None, ["2", "3"]), (["3", "2", "1"], ["2", "3"])]
)
def test_targets_choose_among_the_output_nodes(
    targets: list[str] | None, outputs: list[str]
) -> None:
    assert check({"1": EMPTY, "2": save(), "3": save()}, targets).outputs == outputs


@pytest.mark.parametrize("targets", [[], ["9"], ["1"]])
def test_targets_that_are_no_output_nodes_leave_no_outputs(targets: list[str]) -> None:
    error = check({"1": EMPTY, "2": save()}, targets).error
    assert error is not None
    assert error["type"] == "prompt_no_outputs"


def test_the_reasons_of_output_nodes_are_the_details_of_the_whole() -> None:
    found = check({"2": {"class_type": "SaveImage", "inputs": {}}})
    assert found.error == {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Required input is missing: images\nRequired input is missing: filename_prefix",
        "extra_info": {},
    }
    assert found.node_errors["2"]["class_type"] == "SaveImage"
    assert found.node_errors["2"]["dependent_outputs"] == ["2"]


def test_reasons_upstream_are_not_in_the_details_but_name_the_outputs() -> None:
    wrong = {"class_type": "EmptyImage", "inputs": EMPTY["inputs"] | {"width": -5}}  # type: ignore[operator]
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    found = check({"1": wrong, "2": save(), "3": preview})
    assert found.error is not None
    assert found.error["details"] == ""
    assert found.node_errors == {
        "1": {
            "errors": [
                {
                    "type": "value_smaller_than_min",
                    "message": "Value -5 smaller than min of 1",
                    "details": "width",
                    "extra_info": {
                        "input_name": "width",
                        "input_config": [
                            "INT",
                            {"default": 512, "min": 1, "max": 16384, "step": 1},
                        ],
                        "received_value": -5,
                    },
                }
            ],
            "dependent_outputs": ["2", "3"],
            "class_type": "EmptyImage",
        }
    }


def test_good_outputs_run_beside_bad_ones() -> None:
    found = check({"1": EMPTY, "2": save(), "3": save(["1"])})
    assert found.error is None
    assert found.outputs == ["2"]
    assert found.node_errors["3"]["dependent_outputs"] == ["3"]


@pytest.mark.parametrize(
    ("changes", "kind", "message", "details", "extra"),
    [
        (
            {"int": -1},
            "value_smaller_than_min",
            "Value -1 smaller than min of 0",
            "int",
            {"input_name": "int", "input_config": INT, "received_value": -1},
        ),
        (
            {"float": 1.5},
            "value_bigger_than_max",
            "Value 1.5 bigger than max of 1.0",
            "float",
            {"input_name": "float", "input_config": FLOAT, "received_value": 1.5},
        ),
        (
            {"int": "abc"},
            "invalid_input_type",
            "Failed to convert an input value to a INT value",
            "int, abc, invalid literal for int() with base 10: 'abc'",
            {
                "input_name": "int",
                "input_config": INT,
                "received_value": "abc",
                "exception_message": "invalid literal for int() with base 10: 'abc'",
            },
        ),
        (
            {"combo": "zzz"},
            "value_not_in_list",
            "Value not in list",
            "combo: 'zzz' not in ['a', 'b', 'c']",
            {
                "input_name": "combo",
                "input_config": [["a", "b", "c"], {"default": "b"}],
                "received_value": "zzz",
            },
        ),
        (
            {"numbers": "2"},
            "value_not_in_list",
            "Value not in list",
            "numbers: '2' not in [1, 2, 3]",
            {"input_name": "numbers", "input_config": [[1, 2, 3], {}], "received_value": "2"},
        ),
        (
            {"long_combo": "zzz"},
            "value_not_in_list",
            "Value not in list",
            "long_combo: 'zzz' not in (list of length 30)",
            {"input_name": "long_combo", "input_config": None, "received_value": "zzz"},
        ),
    ],
)
def test_a_bad_value_is_reported_with_its_input(
    changes: dict[str, object], kind: str, message: str, details: str, extra: dict[str, Any]
) -> None:
    assert reasons(of_inputs(**changes)) == [
        {"type": kind, "message": message, "details": details, "extra_info": extra}
    ]


def test_a_new_combo_is_checked_like_an_old_one() -> None:
    graph = {
        "1": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "nobody"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    assert reasons(graph)[0]["details"].startswith("sampler_name: 'nobody' not in (list of length")


@pytest.mark.parametrize(
    ("name", "given_", "kept"),
    [
        ("int", "7", 7),
        ("int", 3.9, 3),
        ("int", True, 1),
        ("float", "0.25", 0.25),
        ("boolean", "false", True),
        ("string", None, "None"),
        ("string", 5, "5"),
        ("int", {"__value__": "4"}, 4),
        ("string", {"__value__": ["a", "b"]}, "['a', 'b']"),
    ],
)
def test_values_are_brought_to_their_type_in_the_graph(
    name: str, given_: object, kept: object
) -> None:
    graph = of_inputs(**{name: given_})
    assert check(graph).error is None
    value = graph["1"]["inputs"][name]
    assert (value, type(value)) == (kept, type(kept))


def test_seeds_up_to_64_bits_stay_whole() -> None:
    graph = {
        "1": {
            "class_type": "OracleUI",
            "inputs": {"kind": "text", "seed": 2**64 - 1},
        }
    }
    assert check(graph).outputs == ["1"]
    assert graph["1"]["inputs"]["seed"] == 2**64 - 1  # type: ignore[index]


@pytest.mark.parametrize("link", [["1"], ["1", 0, 0], []])
def test_a_link_has_two_parts(link: list[object]) -> None:
    (reason,) = reasons({"1": EMPTY, "2": save(link)}, "2")
    assert reason["type"] == "bad_linked_input"
    assert reason["details"] == "images"
    assert reason["extra_info"]["received_value"] == link


@pytest.mark.parametrize(
    ("link", "exception", "details"),
    [
        (["9", 0], "KeyError", "'9'"),
        (["1", 5], "IndexError", "tuple index out of range"),
        (["1", "0"], "TypeError", "tuple indices must be integers or slices, not str"),
        ([1, 0], "KeyError", "1"),
        ([["1"], 0], "TypeError", "unhashable type: 'list'"),
    ],
)
def test_a_link_into_the_void_is_an_exception(
    link: list[object], exception: str, details: str
) -> None:
    (reason,) = reasons({"1": EMPTY, "2": save(link)}, "2")
    assert reason["type"] == "exception_during_validation"
    assert reason["message"] == "Exception when validating node"
    assert reason["details"] == details
    assert reason["extra_info"]["exception_type"] == exception
    assert all(isinstance(frame, str) for frame in reason["extra_info"]["traceback"])


def test_a_link_into_the_void_further_up_is_reported_for_the_inner_node() -> None:
    inner = {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}}
    (reason,) = reasons({"1": inner, "2": save()})
    assert reason["type"] == "exception_during_inner_validation"
    extra = reason["extra_info"]
    assert extra.pop("traceback")
    assert extra.pop("input_config")[0] == "IMAGE"
    assert extra == {
        "input_name": "images",
        "exception_message": "'9'",
        "exception_type": "KeyError",
        "linked_node": ["1", 0],
    }


def test_no_path_of_the_machine_is_in_a_traceback() -> None:
    (reason,) = reasons({"2": save(["9", 0])}, "2")
    assert not any('File "/' in frame for frame in reason["extra_info"]["traceback"])


def test_a_link_between_types_is_a_mismatch() -> None:
    latent = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1},
    }
    (reason,) = reasons({"1": latent, "2": save()}, "2")
    assert reason["type"] == "return_type_mismatch"
    assert reason["details"] == "images, received_type(LATENT) mismatch input_type(IMAGE)"
    assert reason["extra_info"]["received_type"] == "LATENT"
    assert reason["extra_info"]["linked_node"] == ["1", 0]


def test_one_of_several_types_fits() -> None:
    graph = of_inputs(either=["9", 0])
    graph["9"] = EMPTY
    assert check(graph).outputs == ["1"]


def test_a_value_where_a_link_belongs_is_accepted() -> None:
    assert check({"2": save("x")}).outputs == ["2"]


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


def test_a_file_that_the_cloud_does_not_have_fails_the_custom_validation() -> None:
    load = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
    assert reasons({"1": load, "2": save()}) == [
        {
            "type": "custom_validation_failed",
            "message": "Custom validation failed for node",
            "details": "image - Invalid image file: x.png",
            "extra_info": {"input_name": "image"},
        }
    ]


@pytest.mark.parametrize("name", ["x.png", "x.png [output]"])
def test_the_name_of_a_file_is_looked_up_as_it_stands_in_the_graph(name: str) -> None:
    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    assert check({"1": load, "2": save()}, known=(name,)).outputs == ["2"]


@pytest.mark.parametrize(
    ("kind", "details"), [("false", "kind"), ("string", "kind - the reason given")]
)
def test_a_node_packs_own_check_gives_its_reason(kind: str, details: str) -> None:
    graph = {"1": {"class_type": "OracleValidate", "inputs": {"kind": kind, "number": 1}}}
    assert reasons(graph)[0]["details"] == details


def test_a_check_that_raises_is_an_exception() -> None:
    graph = {"1": {"class_type": "OracleValidate", "inputs": {"kind": "raise", "number": 1}}}
    (reason,) = reasons(graph)
    assert reason["details"] == "validator boom"
    assert reason["extra_info"]["exception_type"] == "RuntimeError"


@pytest.mark.parametrize(
    ("node", "details"),
    [
        ({"class_type": "SaveImage"}, "'inputs'"),
        ({"class_type": "SaveImage", "inputs": None}, "NoneType"),
    ],
)
def test_a_node_without_inputs_is_an_exception(node: dict[str, Any], details: str) -> None:
    (reason,) = reasons({"1": node})
    assert reason["type"] == "exception_during_validation"
    assert details in reason["details"]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
_IDS = st.sampled_from(["1", "2", "3", "4"])
_LINKS = st.tuples(_IDS, st.integers(-2, 3)).map(list)


@st.composite
def _nodes(draw: st.DrawFn) -> Any:
    node_class = CATALOG[draw(st.sampled_from(sorted(CATALOG)))]
    names = st.sampled_from([*node_class.inputs(), "other"])
    inputs = draw(st.dictionaries(names, _LINKS | _VALUES))
    return draw(st.just({"class_type": node_class.name, "inputs": inputs}) | _VALUES)


@given(st.dictionaries(_IDS, _nodes()) | _VALUES, st.none() | st.lists(_IDS))
def test_junk_never_raises_and_can_always_be_reported(
    graph: Any, targets: list[str] | None
) -> None:
    found = check(copy.deepcopy(graph), targets)
    codec.dumps([found.error, found.node_errors])
    assert (found.error is None) == bool(found.outputs)


@given(st.dictionaries(_IDS, _nodes(), min_size=1))
def test_what_was_validated_once_stays_valid(graph: Any) -> None:
    found = check(graph)
    assert check(graph).outputs == found.outputs
