"""File names in graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.jobs import (
    file_strings,
    filename_prefix,
    is_link,
    missing_files,
    reveal,
    sources,
    substitute,
    written_names,
)
from proxy.translate.names import Place, written_place
from proxy.translate.shapes import Shape, Shapes, shape_of
from proxy.translate.validation import validate

FILES = {
    Place("input", "cat.png"): "aa.png",
    Place("input", "sub/cat.png"): "bb.png",
    Place("output", "ComfyUI_00001_.png"): "cc.png [output]",
    Place("input", "euler"): "dd",
}

CATALOG: dict[str, Any] = {
    "LoadImage": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
    "LoadVideo": {"input": {"required": {"file": ["COMBO", {"options": [], "video_upload": 1}]}}},
    "Optional": {"input": {"optional": {"image": [["none", "x.png"], {"image_upload": True}]}}},
    "LoadLatent": {"input": {"required": {"latent": [["a.latent"]]}}},
    "Text": {
        "input": {
            "required": {"text": ["STRING", {"multiline": True}]},
            "optional": {"seed": ["INT"], "strength": ["FLOAT", {}], "flag": ["BOOLEAN"]},
        }
    },
    "Sampler": {"input": {"required": {"sampler_name": [["euler", "ddim"]]}}},
    "NewSampler": {"input": {"required": {"name": ["COMBO", {"options": ["euler"]}]}}},
    "PathUpload": {"input": {"required": {"path": ["STRING", {"file_upload": True}]}}},
    "Load3D": {"input": {"required": {"image": ["LOAD_3D", {}]}}},
    "Odd": {"input": {"required": {"a": [], "b": "x"}, "optional": None}},
    "Odder": {"input": []},
}


def shapes(name: str) -> Shape | None:
    return shape_of(name, CATALOG[name]) if name in CATALOG else None


def run(class_type: Any, **inputs: Any) -> Any:
    graph = {"1": {"class_type": class_type, "inputs": inputs, "_meta": {"title": "cat.png"}}}
    before = copy.deepcopy(graph)
    result = substitute(graph, shapes=shapes, cloud_name=FILES.get)
    assert graph == before
    assert result["1"]["_meta"] == {"title": "cat.png"}
    return result["1"]["inputs"]


@pytest.mark.parametrize(
    ("written", "cloud"),
    [
        ("cat.png", "aa.png"),
        ("cat.png [input]", "aa.png"),
        ("./cat.png", "aa.png"),
        ("sub/cat.png", "bb.png"),
        ("sub\\cat.png", "bb.png"),
        ("sub//cat.png [input]", "bb.png"),
        ("ComfyUI_00001_.png [output]", "cc.png [output]"),
    ],
)
def test_every_written_form_of_a_known_file_is_replaced(written: str, cloud: str) -> None:
    assert run("LoadImage", image=written) == {"image": cloud}


@pytest.mark.parametrize(
    "written", ["dog.png", "ComfyUI_00001_.png", "cat.png [output]", "a cat.png", "../cat.png", ""]
)
def test_other_strings_stay(written: str) -> None:
    assert run("LoadImage", image=written) == {"image": written}


def test_free_text_stays_though_it_is_a_name() -> None:
    assert run("Text", text="cat.png", seed="cat.png", strength="cat.png", flag="cat.png") == {
        "text": "cat.png",
        "seed": "cat.png",
        "strength": "cat.png",
        "flag": "cat.png",
    }


@pytest.mark.parametrize(
    ("class_type", "name"), [("Sampler", "sampler_name"), ("NewSampler", "name")]
)
def test_a_choice_that_the_class_offers_stays(class_type: str, name: str) -> None:
    assert run(class_type, **{name: "euler"}) == {name: "euler"}


@pytest.mark.parametrize(
    ("class_type", "name"),
    [
        ("LoadVideo", "file"),
        ("LoadLatent", "latent"),
        ("PathUpload", "path"),
        ("Load3D", "image"),
        ("Text", "undeclared"),
        ("Odd", "a"),
        ("Odd", "b"),
        ("Odder", "a"),
        ("Unknown", "anything"),
        (None, "anything"),
        (["list"], "anything"),
    ],
)
def test_inputs_that_may_name_files_are_replaced(class_type: Any, name: str) -> None:
    assert run(class_type, **{name: "cat.png"}) == {name: "aa.png"}


def test_values_inside_of_lists_and_objects_are_replaced_and_links_are_not() -> None:
    assert run(
        "Unknown",
        many=["cat.png", "dog.png", 3],
        link=["cat.png", 0],
        wrapped={"__value__": "cat.png"},
        scene={"image": "sub/cat.png [input]", "camera": {"fov": 1.5}},
    ) == {
        "many": ["aa.png", "dog.png", 3],
        "link": ["cat.png", 0],
        "wrapped": {"__value__": "aa.png"},
        "scene": {"image": "bb.png", "camera": {"fov": 1.5}},
    }


@pytest.mark.parametrize("node", [None, 3, [], {}, {"class_type": "LoadImage"}, {"inputs": None}])
def test_nodes_of_no_shape_pass(node: Any) -> None:
    assert substitute({"1": node}, shapes=shapes, cloud_name=FILES.get) == {"1": node}


@pytest.mark.parametrize(
    ("value", "link"),
    [(["1", 0], True), (["1", True], False), (["1"], False), ([1, 0], False), ("1", False)],
)
def test_what_a_link_is(value: object, link: bool) -> None:
    assert is_link(value) is link


NAMED = st.sampled_from(["cat.png", "sub\\cat.png [temp]", "text", "image", "1", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMED, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(NAMED, JSON, max_size=3))
def test_a_graph_without_known_files_comes_out_as_it_went_in(graph: dict[str, Any]) -> None:
    def nothing(_: Place) -> None:
        return None

    assert substitute(graph, shapes=shapes, cloud_name=nothing) == graph


GRAPHS = st.dictionaries(
    NAMED,
    st.fixed_dictionaries(
        {
            "class_type": st.sampled_from([*CATALOG, "?"]),
            "inputs": st.dictionaries(NAMED, JSON, max_size=3),
        }
    ),
    max_size=3,
)


@given(GRAPHS)
def test_nothing_but_whole_strings_changes(graph: dict[str, Any]) -> None:
    def every(_: Place) -> str:
        return "X"

    result = substitute(graph, shapes=shapes, cloud_name=every)
    assert _blank(result) == _blank(graph)


@given(GRAPHS)
def test_what_may_be_replaced_is_looked_up(graph: dict[str, Any]) -> None:
    asked = set()

    def note(place: Place) -> None:
        asked.add(place)

    substitute(graph, shapes=shapes, cloud_name=note)
    assert asked <= set(map(written_place, file_strings(graph, shapes)))


@pytest.mark.parametrize(
    ("class_type", "inputs", "found"),
    [
        ("LoadImage", {"image": "cat.png"}, {"cat.png"}),
        ("LoadImage", {"image": ["1", 0]}, set()),
        ("Text", {"text": "a cat", "seed": 1, "strength": 0.5, "flag": True}, set()),
        ("Text", {"text": "a" * 64 + ".png"}, {"a" * 64 + ".png"}),
        ("Sampler", {"sampler_name": "euler"}, set()),
        ("Sampler", {"sampler_name": "cat.png"}, {"cat.png"}),
        ("?", {"any": "cat.png"}, {"cat.png"}),
    ],
)
def test_only_what_may_name_a_file_is_looked_up(
    class_type: str, inputs: dict[str, Any], found: set[str]
) -> None:
    graph = {"1": {"class_type": class_type, "inputs": inputs}}
    assert file_strings(graph, shapes) == found


@pytest.mark.parametrize(
    ("class_type", "inputs", "missing"),
    [
        ("LoadImage", {"image": "cat.png"}, None),
        ("LoadImage", {"image": "dog.png"}, "image - Invalid file: dog.png"),
        ("LoadImage", {"image": "x.png"}, "image - Invalid file: x.png"),
        ("LoadImage", {"image": ["1", 0]}, None),
        ("LoadLatent", {"latent": "a.latent"}, "latent - Invalid file: a.latent"),
        ("LoadVideo", {"file": "film"}, "file - Invalid file: film"),
        ("Optional", {"image": "none"}, None),
        ("Optional", {"image": "some"}, "image - Invalid file: some"),
        ("PathUpload", {"path": "https://example.com/x.png"}, None),
        ("Text", {"text": "dog.png"}, None),
        ("?", {"any": "dog.png"}, None),
    ],
)
def test_files_that_the_member_does_not_have_are_named(
    class_type: str, inputs: dict[str, Any], missing: str | None
) -> None:
    graph = {"1": {"class_type": class_type, "inputs": inputs}}
    found = missing_files(graph, shapes, lambda text: text == "cat.png")
    details = [error["details"] for about in found.values() for error in about["errors"]]
    assert details == ([] if missing is None else [missing])


@pytest.mark.parametrize(
    "read",
    [
        file_strings,
        lambda graph, shapes: substitute(graph, shapes=shapes, cloud_name=FILES.get),
        lambda graph, shapes: validate(graph, None, shapes, has_file=lambda _: True),
    ],
    ids=["file_strings", "substitute", "validate"],
)
def test_each_class_of_a_graph_is_read_once(
    read: Callable[[dict[str, Any], Shapes], object],
) -> None:
    asked: list[str] = []

    def noted(name: str) -> Shape | None:
        asked.append(name)
        return shapes(name)

    node = {"class_type": "LoadImage", "inputs": {"image": "cat.png"}}
    read({"1": node, "2": node, "3": node}, noted)
    assert asked == ["LoadImage"]


def _blank(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _blank(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_blank(item) for item in value]
    return "" if isinstance(value, str) else value


NAMES = {"aa.png": "sub/cat.png", "blake3:ff": "dog", "cc": "ComfyUI_00001_.png"}


@pytest.mark.parametrize(
    ("cloud", "local"),
    [
        ("aa.png", "sub/cat.png"),
        ("Invalid image file: aa.png", "Invalid image file: sub/cat.png"),
        ("aa.png is not there: aa.png.", "sub/cat.png is not there: sub/cat.png."),
        ("cc [output]", "ComfyUI_00001_.png [output]"),
        ("['blake3:ff', 'aa.png']", "['dog', 'sub/cat.png']"),
        ("aaa.png aa.pngx cccc", "aaa.png aa.pngx cccc"),
        ("...", "..."),
    ],
)
def test_the_clouds_names_are_shown_as_the_members(cloud: str, local: str) -> None:
    assert reveal(cloud, NAMES) == local
    assert reveal({"x": [cloud, 1, None]}, NAMES) == {"x": [local, 1, None]}


@given(JSON)
def test_revealing_nothing_changes_nothing(value: Any) -> None:
    assert reveal(value, {}) == value


CHAIN: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"image": "a.png"}},
    "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "width": 8}},
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
}


def test_sources_are_all_nodes_that_an_input_comes_from() -> None:
    assert sources(CHAIN, "3") == {"1", "2"}
    assert sources(CHAIN, "1") == sources(CHAIN, "missing") == set()


def test_the_sources_of_a_cycle_end() -> None:
    cycle = {node: {"inputs": {"x": [other, 0]}} for node, other in ("ab", "ba")}
    assert sources(cycle, "a") == {"a", "b"}


@pytest.mark.parametrize(
    ("node", "prefix"),
    [
        ({"inputs": {"filename_prefix": "a/b"}}, "a/b"),
        ({"inputs": {"filename_prefix": {"__value__": "c"}}}, "c"),
        ({"inputs": {"filename_prefix": ["3", 0]}}, None),
        ({"inputs": {}}, None),
        ({"inputs": None}, None),
        (None, None),
    ],
)
def test_the_prefix_of_a_node(node: Any, prefix: str | None) -> None:
    assert filename_prefix(node) == prefix


CALLED = "a" * 64 + ".png"


@pytest.mark.parametrize(
    ("written", "called", "expected"),
    [
        ("cat.png", CALLED, {CALLED: "cat.png"}),
        ("cat.png [input]", CALLED, {CALLED: "cat.png [input]"}),
        ("cat.png [output]", f"{CALLED} [output]", {CALLED: "cat.png"}),
        (["cat.png", {"x": "pets/dog.png"}], [CALLED, {"x": CALLED}], {CALLED: "cat.png"}),
        (CALLED, CALLED, {CALLED: CALLED}),
        ("a cat", "a cat", {}),
        (["1", 0], ["1", 0], {}),
    ],
)
def test_the_names_that_a_graph_used_are_known_by_those_of_the_cloud(
    written: object, called: object, expected: dict[str, str]
) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": written}}, "2": 7}
    sent = {"1": {"class_type": "LoadImage", "inputs": {"image": called}}, "2": 7}
    assert written_names(graph, sent) == expected
