"""Files of the editor become the graphs that the editor itself would submit."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate.editor import EditorError, classes_of, graph_of, is_editors

CLASSES: dict[str, Any] = {
    "Loader": {"input": {"required": {"name": [["a", "b"], {}]}}},
    "Text": {
        "input": {
            "required": {"text": ["STRING", {"dynamicPrompts": True}], "clip": ["CLIP"]},
        },
        "display_name": "Text Encode",
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
                "cfg": ["FLOAT", {}],
                "forced": ["INT", {"forceInput": True}],
                "name": ["COMBO", {"options": ["euler", "fixed"]}],
            },
            "optional": {"denoise": ["FLOAT", {}], "list": ["STRING", {}]},
        }
    },
    "Photo": {
        "input": {
            "required": {"image": [["a.png"], {"image_upload": True}]},
            "optional": {"channel": [["red", "alpha"], {}]},
        }
    },
    "Resize": {
        "input": {
            "required": {
                "mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "scale", "inputs": {"required": {"by": ["FLOAT", {}]}}},
                            {
                                "key": "size",
                                "inputs": {"required": {"width": ["INT", {}], "height": ["INT"]}},
                            },
                        ]
                    },
                ],
                "method": [["area", "lanczos"]],
            }
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}},
}


def node(number: int, kind: str, values: Any = None, **more: Any) -> dict[str, Any]:
    inputs = [
        {"name": name, "type": "X", "link": link} for name, link in more.pop("links", {}).items()
    ]
    return {
        "id": number,
        "type": kind,
        "widgets_values": values,
        "inputs": inputs,
        "mode": 0,
        **more,
    }


def graph(nodes: list[dict[str, Any]], links: list[Any] = (), **more: Any) -> dict[str, Any]:  # type: ignore[assignment]
    workflow = {"nodes": nodes, "links": list(links), **more}
    return graph_of(workflow, CLASSES, lambda choices: choices[-1])


def inputs(nodes: list[dict[str, Any]], links: list[Any] = (), **more: Any) -> dict[str, Any]:  # type: ignore[assignment]
    return {name: node["inputs"] for name, node in graph(nodes, links, **more).items()}


SAMPLER = [7, "randomize", 20, 7.5, "fixed", 1.0, "x"]


def test_values_get_the_names_of_the_class() -> None:
    assert inputs([node(1, "Sampler", SAMPLER)]) == {
        "1": {"seed": 7, "steps": 20, "cfg": 7.5, "name": "fixed", "denoise": 1.0, "list": "x"}
    }


def test_a_file_without_the_words_behind_seeds_is_understood() -> None:
    assert inputs([node(1, "Sampler", [7, 20, 7.5, "euler"])])["1"]["steps"] == 20


def test_values_by_name_stay_by_name() -> None:
    values = {"seed": 7, "preview": {"hidden": False}}
    assert inputs([node(1, "Sampler", values)]) == {"1": {"seed": 7}}


def test_the_button_of_an_upload_is_no_value() -> None:
    assert inputs([node(1, "Photo", ["a.png", "image", "alpha"])]) == {
        "1": {"image": "a.png", "channel": "alpha"}
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["scale", 2.0, "area"], {"mode": "scale", "mode.by": 2.0, "method": "area"}),
        (
            ["size", 8, 9, "area"],
            {"mode": "size", "mode.width": 8, "mode.height": 9, "method": "area"},
        ),
    ],
)
def test_a_choice_brings_its_own_values(values: list[Any], expected: dict[str, Any]) -> None:
    assert inputs([node(1, "Resize", values)]) == {"1": expected}


def test_a_list_as_a_value_is_no_link() -> None:
    assert inputs([node(1, "Loader", [["a", 0]])])["1"]["name"] == {"__value__": ["a", 0]}


def test_an_unknown_class_is_left_to_the_server_if_anything_is_connected() -> None:
    entries = [{"name": "v", "widget": {"name": "v"}, "link": None}, {"name": "x", "link": 1}]
    unknown = {**node(2, "Unknown", [5]), "inputs": entries}
    nodes = [node(1, "Loader", ["a"]), unknown, node(3, "Label", ["hello"])]
    assert inputs(nodes, [[1, 1, 0, 2, 0, "X"]]) == {
        "1": {"name": "a"},
        "2": {"v": 5, "x": ["1", 0]},
    }


def test_the_title_is_the_node_s_or_the_class_s() -> None:
    found = graph([node(1, "Loader", ["a"], title="Mine"), node(2, "Text", ["x"])])
    assert [node["_meta"]["title"] for node in found.values()] == ["Mine", "Text Encode"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {day|night} sky", "a night sky"),
        ("{a|{b|c}}", "c"),
        ("a // note\nb /* more */ c", "a \nb  c"),
        (r"\{a\|b\}", "{a|b}"),
        ("{a", "{a"),
    ],
)
def test_prompts_lose_comments_and_get_one_of_each_choice(text: str, expected: str) -> None:
    assert inputs([node(1, "Text", [text])])["1"]["text"] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/* " * 200_000, "/* " * 200_000),
        ("{a|b}" * 60_000, "b" * 60_000),
        ("{" * 100_000 + "a|b", "{" * 100_000 + "a|b"),
        ("{" * 100_000 + "a" + "}" * 100_000, "a"),
    ],
)
def test_the_cost_of_a_prompt_grows_with_its_length_alone(text: str, expected: str) -> None:
    assert inputs([node(1, "Text", [text])])["1"]["text"] == expected


# --- what only the editor knows ---

LOADER = node(1, "Loader", ["a"], outputs=[{"type": "X"}])


def saved(link: int) -> dict[str, Any]:
    return node(9, "Save", links={"images": link})


def test_links_may_be_lists_or_objects() -> None:
    link = {"id": 5, "origin_id": 1, "origin_slot": 2, "target_id": 9, "target_slot": 0}
    for given in (link, [5, 1, 2, 9, 0, "X"]):
        assert inputs([LOADER, saved(5)], [given])["9"] == {"images": ["1", 2]}


def test_reroutes_primitives_and_notes_leave_nothing_but_what_they_carry() -> None:
    nodes = [
        LOADER,
        node(2, "Reroute", links={"": 1}),
        node(3, "Reroute", links={"": 2}),
        node(4, "PrimitiveNode", [99, "fixed"]),
        node(5, "Note", ["hello"]),
        {
            **node(6, "Sampler", SAMPLER),
            "inputs": [
                {"name": "model", "link": 3},
                {"name": "steps", "widget": {"name": "steps"}, "link": 4},
            ],
        },
    ]
    links = [[1, 1, 0, 2, 0], [2, 2, 0, 3, 0], [3, 3, 0, 6, 0], [4, 4, 0, 6, 1]]
    found = inputs(nodes, links)
    assert set(found) == {"1", "6"}
    assert (found["6"]["model"], found["6"]["steps"], found["6"]["cfg"]) == (["1", 0], 99, 7.5)


def test_named_links_go_from_set_to_get() -> None:
    nodes = [
        LOADER,
        node(2, "SetNode", ["it"], links={"X": 1}),
        node(3, "GetNode", ["it"]),
        saved(2),
    ]
    assert inputs(nodes, [[1, 1, 0, 2, 0], [2, 3, 0, 9, 0]]) == {
        "1": {"name": "a"},
        "9": {"images": ["1", 0]},
    }


def test_a_muted_node_and_what_comes_from_it_is_left_out() -> None:
    assert inputs([{**LOADER, "mode": 2}, saved(1)], [[1, 1, 0, 9, 0]]) == {"9": {}}


def test_a_bypassed_node_hands_on_the_input_of_the_type_of_its_output() -> None:
    entries = [{"name": "m", "type": "MASK", "link": 7}, {"name": "i", "type": "IMAGE", "link": 1}]
    bypassed = {**node(2, "Text", mode=4), "inputs": entries, "outputs": [{"type": "IMAGE"}]}
    assert inputs([LOADER, bypassed, saved(2)], [[1, 1, 0, 2, 1], [2, 2, 0, 9, 0]]) == {
        "1": {"name": "a"},
        "9": {"images": ["1", 0]},
    }


def subgraph(*nodes: dict[str, Any], links: list[Any], names: list[str]) -> dict[str, Any]:
    """A subgraph called `sub` whose output is the one of its node 1."""
    return {
        "id": "sub",
        "nodes": list(nodes),
        "links": [*links, [90, 1, 0, -20, 0]],
        "inputs": [{"name": name} for name in names],
        "outputs": [{"name": "out"}],
    }


INNER = {
    **node(1, "Sampler", SAMPLER),
    "inputs": [
        {"name": "model", "link": 1},
        {"name": "steps", "widget": {"name": "steps"}, "link": 2},
    ],
}
INTO = [[1, -10, 0, 1, 0], [2, -10, 1, 1, 1]]


def test_a_subgraph_is_put_in_the_place_of_its_node() -> None:
    place = node(5, "sub", [3], links={"model": 1, "steps": None})
    definitions = {"subgraphs": [subgraph(INNER, links=INTO, names=["model", "steps"])]}
    found = inputs(
        [LOADER, place, saved(2)], [[1, 1, 0, 5, 0], [2, 5, 0, 9, 0]], definitions=definitions
    )
    assert set(found) == {"1", "5:1", "9"}
    assert found["5:1"]["model"] == ["1", 0]
    assert found["5:1"]["steps"] == 3
    assert found["9"] == {"images": ["5:1", 0]}


def test_a_value_that_the_node_of_a_subgraph_does_not_keep_is_the_inner_one() -> None:
    place = node(5, "sub", [], links={"model": None, "steps": None})
    definitions = {"subgraphs": [subgraph(INNER, links=INTO, names=["model", "steps"])]}
    assert inputs([place], definitions=definitions)["5:1"]["steps"] == 20


@pytest.mark.parametrize(
    ("mode", "names"), [(2, {"1", "9"}), (4, {"1", "9"}), (0, {"1", "5:1", "9"})]
)
def test_the_mode_of_a_subgraph_is_that_of_all_in_it(mode: int, names: set[str]) -> None:
    place = node(5, "sub", [3], links={"model": 1}, mode=mode, outputs=[{"type": "X"}])
    definitions = {"subgraphs": [subgraph(INNER, links=INTO, names=["model", "steps"])]}
    links = [[1, 1, 0, 5, 0], [2, 5, 0, 9, 0]]
    found = inputs([LOADER, place, saved(2)], links, definitions=definitions)
    assert set(found) == names
    assert found["9"] == {2: {}, 4: {"images": ["1", 0]}, 0: {"images": ["5:1", 0]}}[mode]


def test_classes_are_those_that_a_server_knows() -> None:
    definitions = {"subgraphs": [subgraph(INNER, links=INTO, names=[])]}
    workflow = {"nodes": [LOADER, node(2, "Note"), node(5, "sub")], "definitions": definitions}
    assert classes_of(workflow) == {"Loader", "Sampler"}


# --- what cannot be converted ---


@pytest.mark.parametrize(
    ("workflow", "output"),
    [
        ({"nodes": [], "extra": {"groupNodes": {"x": {}}}}, "group nodes"),
        (
            {"nodes": [node(1, "Reroute", links={"": 1}), saved(1)], "links": [[1, 1, 0, 1, 0]]},
            "cycle",
        ),
        (
            {
                "nodes": [node(1, "s")],
                "definitions": {"subgraphs": [{"id": "s", "nodes": [node(1, "s")]}]},
            },
            "cycle",
        ),
        ({"nodes": [{"type": "Loader"}]}, "damaged"),
        ({"nodes": [node(1, "Loader", 5)]}, "damaged"),
        ({"nodes": [LOADER, saved(1)], "links": [[1]]}, "damaged"),
    ],
)
def test_what_cannot_be_converted_is_reported(workflow: dict[str, Any], output: str) -> None:
    with pytest.raises(EditorError, match=output):
        graph_of(workflow, CLASSES, lambda choices: choices[0])


@pytest.mark.parametrize("damage", [{"definitions": "x"}, {"extra": "x"}, {"definitions": [1]}])
def test_parts_that_are_no_objects_are_ignored(damage: dict[str, Any]) -> None:
    assert classes_of({"nodes": [LOADER], **damage}) == {"Loader"}
    assert graph([LOADER], **damage).keys() == {"1"}


def test_a_graph_in_api_format_is_not_the_editors() -> None:
    assert not is_editors({"1": {"class_type": "X"}})
    assert not is_editors([])
    assert is_editors({"nodes": []})
