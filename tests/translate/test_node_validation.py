"""Faults of single nodes, found with the catalog alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from catalog_graphs import shapes
from validated_graphs import CORE, EMPTY, IMAGE, PACK, check, classes_with, save, types

from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.validation import Validation, validate

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


def test_what_a_pack_may_waive_is_reported_beside_what_it_may_not() -> None:
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


def test_a_missing_input_of_a_growing_one_is_reported_as_by_comfyui() -> None:
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


def test_a_number_too_long_to_be_written_out_is_left_to_the_cloud() -> None:
    assert one(["FLOAT"], {"x": 10**5000}) == []


def test_a_value_too_deep_to_be_written_out_is_left_to_the_cloud() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    info = {**CORE, "input": {"required": {"x": ["INT"]}}, "output_node": True}
    graph = {"1": {"class_type": "One", "inputs": {"x": {"__value__": deep}}}}
    assert validate(graph, None, shapes({"One": info}), has_file=lambda _: False) == Validation(
        ["1"]
    )
