"""Faults of graphs, found with the catalog alone."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import pytest
from catalog_graphs import shapes
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.jobs import foreign_files
from proxy.translate.validation import Validation, validate

CORE = {"python_module": "comfy_extras.nodes_test", "output_node": False, "output": []}
PACK = {"python_module": "custom_nodes.pack", "output_node": False, "output": []}

IMAGE = {"input": {}, **CORE, "output": ["IMAGE"]}
EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}

AUTOGROW = [
    "COMFY_AUTOGROW_V3",
    {
        "template": {
            "input": {"required": {"image": ["IMAGE", {"forceInput": True}]}},
            "prefix": "image",
            "min": 2,
            "max": 4,
        }
    },
]
NAMED = [
    "COMFY_AUTOGROW_V3",
    {
        "template": {
            "input": {"required": {"value": ["INT", {"min": 0}]}},
            "names": ["a", "b"],
            "min": 1,
        }
    },
]
DYNAMIC = [
    "COMFY_DYNAMICCOMBO_V3",
    {
        "options": [
            {"key": "size", "inputs": {"required": {"width": ["INT", {"min": 1, "max": 64}]}}},
            {"key": "grow", "inputs": {"required": {"images": AUTOGROW}}},
            {"key": "none", "inputs": {}},
            "odd",
        ]
    },
]


def classes_with(name: str, info: dict[str, Any]) -> dict[str, Any]:
    return {**object_info(standard_nodes()), "GiveImage": IMAGE, name: info}


def save(source: object = None, **inputs: Any) -> dict[str, Any]:
    images = ["1", 0] if source is None else source
    return {
        "class_type": "SaveImage",
        "inputs": {"images": images, "filename_prefix": "x"} | inputs,
    }


def check(
    graph: Any,
    targets: list[str] | None = None,
    *,
    classes: dict[str, Any] | None = None,
    files: Collection[str] | None = None,
) -> Validation:
    before = copy.deepcopy(graph)
    known = object_info(standard_nodes()) if classes is None else classes
    has_file = None if files is None else files.__contains__
    found = validate(graph, targets, shapes(known), has_file=has_file)
    assert graph == before
    return found


def types(found: Validation, node_id: str = "1") -> list[str]:
    return [error["type"] for error in found.node_errors.get(node_id, {"errors": []})["errors"]]


def one(
    spec: Any, inputs: dict[str, Any], *, core: bool = True, files: Collection[str] = ()
) -> list[str]:
    """The faults of one node of a class whose one input `x` is required."""
    info = {**(CORE if core else PACK), "input": {"required": {"x": spec}}, "output_node": True}
    graph = {"1": {"class_type": "One", "inputs": inputs}, "2": EMPTY, "3": _giver("LATENT")}
    classes = classes_with("One", info) | {"Give LATENT": {**IMAGE, "output": ["LATENT"]}}
    return types(check(graph, classes=classes, files=files))


def _giver(type_: str) -> dict[str, Any]:
    return {"class_type": f"Give {type_}", "inputs": {}}


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


def test_a_link_to_nowhere_further_up_is_told_of_the_inner_node() -> None:
    inner = {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}}
    (reason,) = check({"1": inner, "2": save()}).node_errors["1"]["errors"]
    assert reason["type"] == "exception_during_inner_validation"
    assert reason["details"] == "'9'"
    assert reason["extra_info"]["input_name"] == "images"
    assert reason["extra_info"]["linked_node"] == ["1", 0]


def test_a_cycle_is_told_of_all_its_nodes() -> None:
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
    assert sum(len(error["dependent_outputs"]) for error in found.node_errors.values()) == 100_000


@pytest.mark.parametrize(
    ("spec", "value", "found"),
    [
        (["INT", {"min": 0, "max": 10}], 7, []),
        (["INT", {"min": 0, "max": 10}], "7", []),
        (["INT", {"min": 0, "max": 10}], 10.9, []),
        (["INT", {"min": 0, "max": 10}], True, []),
        (["INT", {"min": 0, "max": 10}], {"__value__": "4"}, []),
        (["INT", {"min": 0, "max": 2**64}], 2**64 - 1, []),
        (["INT", {"min": 0, "max": 10}], 11, ["value_bigger_than_max"]),
        (["INT", {"min": 0, "max": 10}], "-1", ["value_smaller_than_min"]),
        (["INT", {"min": None, "max": "10"}], 11, []),
        (["INT"], "1.5", ["invalid_input_type"]),
        (["INT"], None, ["invalid_input_type"]),
        (["INT"], float("nan"), ["invalid_input_type"]),
        (["INT"], float("inf"), ["invalid_input_type"]),
        (["INT", {"forceInput": True}], 3, []),
        (["INT", {"control_after_generate": True}], 3, []),
        (["FLOAT", {"min": 0.0, "max": 1.0}], "0.25", []),
        (["FLOAT", {"min": 0.0, "max": 1.0}], float("nan"), []),
        (["FLOAT", {"min": 0.0, "max": 1.0}], float("inf"), ["value_bigger_than_max"]),
        (["FLOAT"], 10**400, ["invalid_input_type"]),
        (["FLOAT"], {"a": 1}, ["invalid_input_type"]),
        (["FLOAT"], {"__value__": [1]}, ["invalid_input_type"]),
        (["STRING", {"multiline": True}], None, []),
        (["STRING"], {"a": [1]}, []),
        (["BOOLEAN"], "false", []),
        (["IMAGE"], "x", []),
        (["*"], {"anything": 1}, []),
        (["INT,FLOAT", {"min": 3}], "abc", []),
        (["INT,FLOAT", {"min": 3}], 2, ["value_smaller_than_min"]),
        ([["a", "b"]], "a", []),
        ([["a", "b"]], "c", ["value_not_in_list"]),
        ([[1, 2]], 2.0, []),
        ([[1, 2]], "2", ["value_not_in_list"]),
        ([[]], "whatever", []),
        (["COMBO", {"options": ["a", "b"]}], "b", []),
        (["COMBO", {"options": ["a", "b"]}], "c", ["value_not_in_list"]),
        (["COMBO", {"options": []}], "c", []),
        (["COMBO", {}], "c", []),
        (["COMBO", {"options": ["a"], "remote": {"route": "/x"}}], "c", []),
        (["COMBO", {"options": ["a"], "remote_combo": {"route": "/x"}}], "c", []),
        (["COMBO", {"options": ["a", "b"], "multiselect": True}], {"__value__": ["a", "b"]}, []),
        (
            ["COMBO", {"options": ["a", "b"], "multiselect": True}],
            {"__value__": ["a", "z"]},
            ["value_not_in_list"],
        ),
        (["COMBO", {"options": ["a", "b"], "multiselect": True}], {"__value__": ["z"] * 99}, []),
        (["COMBO", {"options": ["a", "b"]}], {"__value__": ["a"]}, ["value_not_in_list"]),
        ([["x.png"], {"image_upload": True}], "y.png", []),
        ([["x.latent"]], "mine.latent", []),
        (["COMFY_DYNAMICSLOT_V3", {"slotType": "IMAGE", "inputs": {}}], 1, []),
        (["COMFY_SOMETHING_V9", {}], 1, []),
        ("odd", 1, []),
        ([], 1, []),
        ([5], 1, []),
        (["INT", "odd"], "abc", []),
    ],
)
def test_a_value_is_held_against_its_spec(spec: Any, value: Any, found: list[str]) -> None:
    assert one(spec, {"x": value}, files={"mine.latent"}) == found


@pytest.mark.parametrize(
    ("spec", "value", "found"),
    [
        (["INT", {"min": 0, "max": 10}], 11, []),
        ([["a", "b"]], "c", []),
        (["IMAGE"], ["3", 0], []),
        (["INT"], "abc", ["invalid_input_type"]),
        (["IMAGE"], ["3"], ["bad_linked_input"]),
        (["IMAGE"], ["9", 0], ["exception_during_validation"]),
    ],
)
def test_what_the_checks_of_a_node_pack_may_waive_is_left_to_the_cloud(
    spec: Any, value: Any, found: list[str]
) -> None:
    assert one(spec, {"x": value}, core=False) == found


def test_what_a_pack_may_waive_is_told_beside_what_it_may_not() -> None:
    inputs = {"x": ["INT", {"max": 1}], "y": ["INT"], "z": [["a", "b"]]}
    info = {**PACK, "input": {"required": inputs}, "output_node": True}
    graph = {"1": {"class_type": "One", "inputs": {"x": 2, "z": "c"}}}
    found = check(graph, classes={"One": info})
    assert types(found) == ["value_bigger_than_max", "required_input_missing", "value_not_in_list"]


@pytest.mark.parametrize("spec", [["INT"], ["IMAGE"], [["a"]], ["COMBO", {"options": []}], ["*"]])
@pytest.mark.parametrize("core", [True, False])
def test_a_required_input_has_to_be_there(spec: Any, core: bool) -> None:
    assert one(spec, {}, core=core) == ["required_input_missing"]


@pytest.mark.parametrize("spec", ["odd", [], [5], ["INT", "odd"], ["COMFY_SOMETHING_V9", {}]])
def test_an_input_of_an_unknown_form_may_be_missing(spec: Any) -> None:
    assert one(spec, {}) == []


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        ("IMAGE", "IMAGE", True),
        ("IMAGE", "MASK", False),
        ("IMAGE", "IMAGE,MASK", True),
        ("IMAGE, LATENT", "LATENT,MASK", True),
        ("FLOAT,INT", "STRING,BOOLEAN", False),
        ("*", "MASK", True),
        ("IMAGE", "*", True),
        ("IMAGE", "INT,*", True),
        ("COMFY_MATCHTYPE_V3", "MASK", True),
        ("IMAGE", "COMFY_MATCHTYPE_V3", True),
        ("COMBO", "COMBO", True),
        ("STRING", "COMBO", False),
        ("COMBO", ["a"], True),
        ("STRING", ["a"], False),
        ("*", ["a"], True),
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], "COMBO", True),
        (["a", "b"], "STRING", True),
    ],
)
def test_types_of_links_match_as_in_comfyui(given: Any, wanted: Any, fits: bool) -> None:
    classes = {
        "Give": {"input": {}, **CORE, "output": [given]},
        "Take": {"input": {"optional": {"x": [wanted]}}, **CORE, "output_node": True},
    }
    graph = {
        "1": {"class_type": "Take", "inputs": {"x": ["2", 0]}},
        "2": {"class_type": "Give", "inputs": {}},
    }
    assert types(check(graph, classes=classes)) == ([] if fits else ["return_type_mismatch"])


@pytest.mark.parametrize("slot", [5, "0", None, 0.5])
@pytest.mark.parametrize("core", [True, False])
def test_a_slot_that_there_is_not_is_wrong_unless_a_pack_may_make_it_up(
    slot: Any, core: bool
) -> None:
    give = {"input": {}, **(CORE if core else PACK), "output": ["IMAGE"]}
    graph = {"1": save(["2", slot]), "2": {"class_type": "Give", "inputs": {}}}
    found = types(check(graph, classes=classes_with("Give", give)))
    assert found == (["exception_during_validation"] if core else [])


@pytest.mark.parametrize(
    ("info", "faultless"),
    [
        (None, False),
        ({}, True),
        ([], False),
        ({"input": None, "output": "x", "output_node": 1}, True),
        ({"input": {"required": [], "optional": 3}}, True),
    ],
)
def test_an_odd_entry_of_the_catalog_is_left_to_the_cloud(info: Any, faultless: bool) -> None:
    graph = {"1": {"class_type": "Odd", "inputs": {"x": ["9", 0]}}, "2": save()}
    assert check(graph, classes=classes_with("Odd", info)).faultless is faultless


def test_an_odd_entry_may_be_an_output_node() -> None:
    graph = {"1": {"class_type": "Odd", "inputs": {}}}
    assert check(graph, classes={"Odd": {"input": {}}}) == Validation()


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"x.image0": ["2", 0], "x.image1": ["2", 0]}, []),
        ({"x.image0": ["2", 0], "x.image1": ["2", 0], "x.image3": ["2", 0]}, []),
        ({"x.image0": ["2", 0]}, ["required_input_missing"]),
        ({}, ["required_input_missing", "required_input_missing"]),
        ({"x.image0": ["2", 0], "x.image1": ["3", 0]}, ["return_type_mismatch"]),
        ({"x.image0": ["2", 0], "x.image1": ["2", 0], "x.other": ["9", 0]}, []),
        ({"x": {"image0": ["2", 0]}}, []),
    ],
)
def test_a_growing_input_has_its_least_number(inputs: Any, found: list[str]) -> None:
    assert one(AUTOGROW, inputs) == found


def test_a_missing_input_of_a_growing_one_is_told_as_comfyui_tells_it() -> None:
    info = {**CORE, "input": {"required": {"x": NAMED}}, "output_node": True}
    graph = {"1": {"class_type": "One", "inputs": {"x.b": -1}}}
    missing, small = check(graph, classes={"One": info}).node_errors["1"]["errors"]
    assert missing["details"] == "a"
    assert missing["extra_info"] == {"input_name": "x.a"}
    assert small["details"] == "x.b"
    assert small["extra_info"]["input_config"] == ["INT", {"min": 0}]


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"x": "size", "x.width": 64}, []),
        ({"x": "size", "x.width": 65}, ["value_bigger_than_max"]),
        ({"x": "size"}, ["required_input_missing"]),
        ({"x": "none"}, []),
        ({"x": "unknown"}, []),
        ({}, []),
        ({"x": "grow", "x.images.image0": ["2", 0], "x.images.image1": ["2", 0]}, []),
        ({"x": "grow", "x.images.image0": ["2", 0]}, ["required_input_missing"]),
    ],
)
def test_a_dynamic_combo_has_the_inputs_of_its_option(inputs: Any, found: list[str]) -> None:
    assert one(DYNAMIC, inputs) == found


HASH = "ab" * 32 + ".png"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("mine.png", []),
        ("sub/mine.png [output]", []),
        ("example.png", []),
        ("other.png", ["custom_validation_failed"]),
        (HASH, ["custom_validation_failed"]),
        (7, []),
        (["9", 0], ["exception_during_inner_validation"]),
    ],
)
def test_a_loader_may_have_files_of_the_member_and_what_the_cloud_offers(
    value: Any, found: list[str]
) -> None:
    classes = object_info(standard_nodes(), ["example.png", HASH])
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": value}}, "2": save()}
    files = {"mine.png", "sub/mine.png [output]"}
    assert types(check(graph, classes=classes, files=files), "1") == found


def test_without_knowing_the_files_no_name_is_refused() -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "any.png"}}, "2": save()}
    assert check(graph).faultless


def test_a_number_too_long_to_be_written_out_is_left_to_the_cloud() -> None:
    assert one(["FLOAT"], {"x": 10**5000}) == []


def test_a_value_too_deep_to_be_written_out_is_left_to_the_cloud() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    info = {**CORE, "input": {"required": {"x": ["INT"]}}, "output_node": True}
    graph = {"1": {"class_type": "One", "inputs": {"x": {"__value__": deep}}}}
    assert validate(graph, None, shapes({"One": info})) == Validation(["1"])


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
    found = validate(graph, None, shapes({"Typed": info}))
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
    found = validate(graph, None, shapes(object_info(standard_nodes())))
    assert found.converted == {}
    assert all(found.kept(graph)[node_id] is node for node_id, node in graph.items())


# --- the cloud's names of files in graphs --------------------


CONTENT = "0123456789abcdef" * 4


def errors(value: Any, *own: str) -> dict[str, Any]:
    graph = {"1": {"class_type": "Any", "inputs": {"x": value}}}
    return foreign_files(graph, own.__contains__)


@pytest.mark.parametrize(
    "value",
    [
        CONTENT,
        f"{CONTENT}.png",
        f"{CONTENT}.png [output]",
        f"{CONTENT}.png[temp] ",
        f"sub/{CONTENT}.png",
        f"sub\\{CONTENT}.png",
        f"blake3:{CONTENT}",
        f"{CONTENT}.PNG".upper(),
        [f"{CONTENT}.png"],
        {"__value__": [f"{CONTENT}.png"]},
        {f"{CONTENT}.png": 1},
        [["deep", [f"{CONTENT}.png", 0, 0]]],
    ],
)
def test_a_name_that_is_not_the_members_is_refused(value: Any) -> None:
    (reason,) = errors(value)["1"]["errors"]
    assert reason["type"] == "custom_validation_failed"
    assert reason["extra_info"] == {"input_name": "x"}
    assert CONTENT in reason["details"].lower()


@pytest.mark.parametrize(
    "value",
    [
        "cat.png",
        CONTENT[1:],
        CONTENT + "0",
        f"the picture {CONTENT}.png is mine",
        f"{CONTENT}.tar.gz/x.png",
        "x" * 2000 + f"/{CONTENT}",
        [CONTENT, 0],
        7,
        None,
    ],
)
def test_other_strings_and_links_are_let_through(value: Any) -> None:
    assert errors(value) == {}


def test_the_members_own_name_is_let_through() -> None:
    assert errors([CONTENT, f"{CONTENT}.png", 1], CONTENT, f"{CONTENT}.png") == {}


@given(
    graph=st.dictionaries(
        st.text(max_size=2),
        st.recursive(
            st.none() | st.text() | st.just(CONTENT) | st.just("inputs"),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["inputs", "x", "class_type"]), inner)
            ),
        ),
    )
)
def test_any_json_is_looked_through(graph: Any) -> None:
    foreign_files(graph, lambda _: False)
