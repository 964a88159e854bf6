"""Graphs with nodes that clients bring along: what the cloud gets, and what its word becomes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from catalog_graphs import FILE, Graph, good_graphs, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.packs.discovery import PACK_NODES, offered
from proxy.packs.model_names import guessed
from proxy.packs.nodes import Node, PackNodeError, Picture
from proxy.packs.rewriting import rewrite, wanted
from proxy.packs.tooling import translated
from proxy.packs.view import MemberView
from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.frames import CloudPicture
from proxy.translate.jobs import is_link
from proxy.translate.packs import Rewriting
from proxy.translate.snapshots import Snapshot
from proxy.translate.validation import validate

CLOUD = {
    name: info
    for name, info in object_info(standard_nodes()).items()
    if name != "SaveImageWebsocket"
}
OFFERED = offered(CLOUD, ())
CLASSES = CLOUD | OFFERED

#: Nodes whose text goes on into a list, where only the cloud's node can say what it takes.
HANDED_ON = {"BlenderInputCombo", "BlenderInputSampler", "BlenderInputLoad3D"}
CHECKED = {name: info for name, info in CLASSES.items() if name not in HANDED_ON}

pictures = st.builds(
    Picture,
    st.just("helpers/sent.png [temp]"),
    st.sampled_from([None, "helpers/mask.png [temp]"]),
    st.integers(1, 9),
    st.integers(1, 9),
)


def has_file(name: str) -> bool:
    return name == FILE or name.startswith("helpers/")


@st.composite
def helped(draw: st.DrawFn, classes: dict[str, Any] = CLASSES) -> tuple[Graph, Rewriting]:
    """A graph under any ids with helper nodes in it, and what the cloud gets."""
    plain = draw(good_graphs(classes))
    ids = draw(
        st.lists(
            st.text("0123456789:~-ab", min_size=1, max_size=4),
            min_size=len(plain),
            max_size=len(plain),
            unique=True,
        )
    )
    graph = named(plain, dict(zip(plain, ids, strict=True)))
    outputs = validate(graph, None, shapes(classes), has_file=has_file).outputs
    classes = OFFERED.keys()
    loads = {
        node_id: draw(pictures)
        for node_id, helper in wanted(graph, outputs, classes).items()
        if helper.reads is not None
    }
    before = copy.deepcopy(graph)
    rewriting = rewrite(graph, outputs, classes, loads, CLOUD.get)
    assert graph == before
    return graph, rewriting


def named(graph: Graph, ids: dict[str, str]) -> Graph:
    """The graph with other ids."""

    def moved(value: Any) -> Any:
        return [ids[value[0]], value[1]] if is_link(value) else value

    return {
        ids[node_id]: {
            **node,
            "inputs": {name: moved(value) for name, value in node["inputs"].items()},
        }
        for node_id, node in graph.items()
    }


@settings(max_examples=60)
@given(helped(CHECKED))
def test_what_the_cloud_gets_is_valid_there(made: tuple[Graph, Rewriting]) -> None:
    graph, rewriting = made
    if rewriting.failure is not None:
        assert rewriting.failure.node_id in graph
        return
    found = validate(rewriting.graph, None, shapes(CLOUD), has_file=has_file)
    assert found.faultless, (found.error, found.node_errors)
    ends = [node_id for node_id in graph if CLASSES[graph[node_id]["class_type"]]["output_node"]]
    assert [output for output in found.outputs if output in graph] == ends
    assert rewriting.graph.keys() - graph.keys() <= rewriting.owners.keys()
    assert set(rewriting.owners.values()) <= graph.keys()


@settings(max_examples=60)
@given(helped(), st.data())
def test_events_and_history_name_the_nodes_of_the_member_alone(
    made: tuple[Graph, Rewriting], data: st.DataObject
) -> None:
    graph, rewriting = made
    view = MemberView(rewriting, graph)
    nodes = list(rewriting.graph)
    if not nodes:
        return
    order = data.draw(st.permutations(nodes))
    cached = data.draw(st.lists(st.sampled_from(nodes), unique=True))
    messages = view.event("execution_cached", {"nodes": cached})
    states: dict[str, Any] = {}
    for node in order:
        states[node] = {"state": "running", "value": 0, "max": 1, "node_id": node}
        about = {"node": node, "display_node": node, "prompt_id": "cloud"}
        messages += view.event("progress_state", {"nodes": copy.deepcopy(states)})
        messages += view.event("executing", about)
        messages += view.event("progress", {**about, "value": 1, "max": 2})
        messages += view.event("executed", {**about, "output": {}})
        states[node]["state"] = "finished"
        frame = view.frame(CloudPicture(b"", "image/png", node_id=node))
        assert frame is None or frame.node_id in graph
    node = data.draw(st.sampled_from(nodes))
    error = {
        "node_id": node,
        "node_type": rewriting.graph[node]["class_type"],
        "executed": data.draw(st.lists(st.sampled_from(nodes), unique=True)),
        "current_outputs": nodes,
        "current_inputs": {},
    }
    messages += view.event("execution_error", error)
    for type_, fields in messages:
        assert ids_in(type_, fields) <= graph.keys(), (type_, fields)
    failed = messages[-1][1]
    assert failed["node_type"] == graph[failed["node_id"]]["class_type"]
    by_node: dict[str, Any] = {node_id: {} for node_id in nodes}
    seen = view.snapshot(
        Snapshot(
            "job",
            "failed",
            settled=True,
            outputs=by_node,
            meta=by_node,
            execution_status={"messages": [["execution_error", error]]},
            execution_error=error,
        )
    )
    assert seen.outputs is not None
    assert seen.outputs.keys() <= graph.keys()
    assert seen.meta is not None
    assert seen.meta.keys() <= graph.keys()
    assert seen.execution_error is not None
    assert ids_in("execution_error", seen.execution_error) <= graph.keys()
    reasons = {"type": "x", "message": "x", "details": "image", "extra_info": {"input_name": "x"}}
    errors = view.node_errors(
        {
            node_id: {"errors": [reasons], "dependent_outputs": nodes, "class_type": "x"}
            for node_id in nodes
        }
    )
    for node_id, about in errors.items():
        assert about["class_type"] == graph[node_id]["class_type"]
        assert set(about["dependent_outputs"]) <= graph.keys()


def ids_in(type_: str, data: Any) -> set[str]:
    """The ids of nodes that an event names."""
    found = {str(data[name]) for name in ("node", "display_node", "node_id") if name in data}
    if type_ == "progress_state":
        for node_id, state in data["nodes"].items():
            found |= {node_id, state["node_id"]}
        return found
    for name in ("nodes", "executed", "current_outputs"):
        found |= set(data.get(name) or ())
    return found


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def rewritten(graph: Graph, **pictures: Picture) -> Rewriting:
    return rewrite(graph, None, OFFERED.keys(), pictures, CLOUD.get)


def test_every_class_is_offered_where_the_cloud_has_what_it_needs() -> None:
    for name, helper in PACK_NODES.items():
        assert helper.info["name"] == name
        assert (name in OFFERED) == (helper.needs <= CLOUD.keys())
        without = {
            class_type: info for class_type, info in CLOUD.items() if class_type not in helper.needs
        }
        assert name not in offered(without, PACK_NODES)


def test_a_class_that_the_cloud_has_is_left_to_it_unless_some_account_lacks_it() -> None:
    cloud = {**CLOUD, "SaveImageWebsocket": {"input": {}, "output": []}}
    assert "SaveImageWebsocket" not in offered(cloud, ())
    assert "SaveImageWebsocket" in offered(cloud, {"SaveImageWebsocket"})


def test_a_loaded_picture_is_a_file_and_its_mask_another() -> None:
    graph = {
        "1": node("ETN_LoadImageCache", id="x"),
        "2": node("PreviewImage", images=["1", 0]),
        "3": node("MaskToImage", mask=["1", 1]),
        "4": node("PreviewImage", images=["3", 0]),
    }
    made = rewritten(graph, **{"1": Picture("a.png", "m.png", 4, 4)})
    assert made.graph["1"] == node("LoadImage", image="a.png")
    (mask,) = made.owners
    assert made.graph[mask] == node("LoadImageMask", image="m.png", channel="red")
    assert made.graph["3"]["inputs"] == {"mask": [mask, 0]}
    assert made.owners == {mask: "1"}


def test_a_mask_that_is_none_fails_where_it_is_needed_and_is_left_out_elsewhere() -> None:
    graph = {
        "1": node("ETN_LoadImageBase64", image="x"),
        "2": node("MaskToImage", mask=["1", 1]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    failure = rewritten(graph, **{"1": Picture("a.png")}).failure
    assert failure is not None
    assert (failure.node_id, failure.exception_type) == ("2", "AttributeError")
    assert failure.message == "'NoneType' object has no attribute 'reshape'"


def test_ids_that_are_added_are_in_no_graph() -> None:
    graph = {
        "1~mask": node("ETN_LoadImageCache", id="x"),
        "1": node("ETN_LoadImageCache", id="x"),
        "2": node("ETN_ApplyMaskToImage", image=["1", 0], mask=["1~mask", 1]),
        "3": node("ETN_SaveImageCache", images=["2", 0], format="PNG"),
    }
    pictures = {key: Picture("a.png", "m.png", 4, 4) for key in ("1", "1~mask")}
    made = rewritten(graph, **pictures)
    assert not made.owners.keys() & graph.keys()
    assert made.failure is None


def test_what_no_output_needs_is_not_sent() -> None:
    graph = {
        "1": node("ETN_LoadImageCache", id="gone"),
        "2": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "3": node("ETN_SaveImageCache", images=["2", 0], format="PNG"),
    }
    assert list(rewrite(graph, ["3"], OFFERED.keys(), {}, CLOUD.get).graph) == ["2", "3"]


def test_a_node_is_cached_when_all_that_stands_for_it_is() -> None:
    graph = {
        "1": node("ETN_LoadImageCache", id="x"),
        "2": node("ETN_ApplyMaskToImage", image=["1", 0], mask=["1", 1]),
        "3": node("ETN_SaveImageCache", images=["2", 0], format="PNG"),
    }
    made = rewritten(graph, **{"1": Picture("a.png", "m.png", 4, 4)})
    mask = next(node_id for node_id, owner in made.owners.items() if owner == "1")
    view = MemberView(made, graph)
    assert view.event("execution_cached", {"nodes": ["1"]})[0][1]["nodes"] == []
    assert view.event("execution_cached", {"nodes": ["1", mask]})[0][1]["nodes"] == ["1"]
    everything = view.event("execution_cached", {"nodes": list(made.graph)})[0][1]["nodes"]
    assert everything == ["1", "2", "3"]


def test_an_error_of_an_added_node_is_the_members_nodes() -> None:
    graph = {
        "1": node("ETN_LoadImageCache", id="x"),
        "2": node("ETN_ApplyMaskToImage", image=["1", 0], mask=["1", 1]),
        "3": node("ETN_SaveImageCache", images=["2", 0], format="PNG"),
    }
    made = rewritten(graph, **{"1": Picture("a.png", "m.png", 4, 4)})
    added = next(node_id for node_id, owner in made.owners.items() if owner == "2")
    view = MemberView(made, graph)
    ((_, messages),) = view.event(
        "execution_error",
        {"node_id": added, "node_type": "MaskComposite", "executed": ["1", added]},
    )
    assert (messages["node_id"], messages["node_type"]) == ("2", "ETN_ApplyMaskToImage")
    assert messages["executed"] == ["1"]


def test_node_errors_of_the_cloud_have_the_members_class_and_input() -> None:
    graph = {
        "1": node("ETN_LoadImageCache", id="x"),
        "3": node("ETN_SaveImageCache", images=["1", 0], format="PNG"),
    }
    made = rewritten(graph, **{"1": Picture("a.png", None, 4, 4)})
    error = {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": "image - Invalid image file: a.png",
        "extra_info": {"input_name": "image"},
    }
    errors = {"1": {"errors": [error], "dependent_outputs": ["3"], "class_type": "LoadImage"}}
    (about,) = MemberView(made, graph).node_errors(errors).values()
    assert about["class_type"] == "ETN_LoadImageCache"
    (messages,) = about["errors"]
    assert messages["extra_info"] == {"input_name": "id"}
    assert messages["details"] == "id - Invalid image file: a.png"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  a   red\ncat  ", "a   red\ncat"),
        ("lang:en a cat lang:en and dog", "a cat and dog"),
        ("lang:en", ""),
        ("lang:d x", "lang:d x"),
        ("lang:eng abc", "g abc"),
        ("", ""),
    ],
)
def test_directives_of_english_are_taken_out(text: str, plain: str) -> None:
    assert translated(text) == plain


@pytest.mark.parametrize("language", ["de", "EN", "xx"])
def test_no_other_language_is_known(language: str) -> None:
    with pytest.raises(PackNodeError, match=f"lang:{language} - {language} is not a known"):
        translated(f"cat, lang:{language} Hund")


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("sd15.safetensors", {"base_model": "sd15", "is_inpaint": False}),
        ("sd15-inpaint.safetensors", {"base_model": "sd15", "is_inpaint": True}),
        ("sdxl.safetensors", {"base_model": "sdxl", "is_inpaint": False, "type": "eps"}),
        ("noobai-vpred.safetensors", {"base_model": "sdxl", "type": "v-prediction"}),
        ("flux1-dev-fp8.safetensors", {"base_model": "flux", "is_inpaint": False}),
        ("flux-2-klein-4b.safetensors", {"base_model": "flux2", "type": "klein-4b"}),
        ("tiny.safetensors", {"base_model": "unknown"}),
        ("nested/deep.ckpt", {"base_model": "unknown"}),
    ],
)
def test_what_a_model_is_is_guessed_from_its_name(name: str, about: dict[str, Any]) -> None:
    assert about.items() <= guessed(name).items()


def test_a_graph_may_be_as_deep_as_a_client_likes() -> None:
    """Five thousand constants that only a dropped input needs."""
    depth = 5000
    graph: Graph = {
        f"p{number}": {
            "class_type": "PrimitiveInt",
            "inputs": {"value": [f"p{number - 1}", 0] if number else 1},
        }
        for number in range(depth)
    }
    inputs = {"order": [f"p{depth - 1}", 0], "show_title": True, "compact": True}
    graph["group"] = {"class_type": "BlenderInputGroup", "inputs": inputs}
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["group", 0]}}
    graph["text"] = {
        "class_type": "ETN_KritaSendText",
        "inputs": {"value": [f"p{depth - 1}", 0], "name": "a", "type": "text"},
    }
    rewriting = rewrite(graph, ["show"], OFFERED.keys(), {}, CLOUD.get)
    assert rewriting.graph.keys() == {"group", "show"}
    view = MemberView(rewriting, graph)
    events = view.event("executing", {"node": "group"})
    assert [data["node"] for _, data in events] == [
        *(f"p{number}" for number in range(depth)),
        "group",
    ]
    ((_, cached),) = MemberView(rewriting, graph).event(
        "execution_cached", {"nodes": ["group", "show"]}
    )
    assert len(cached["nodes"]) == depth + 2
    whole = rewrite(graph, ["text"], OFFERED.keys(), {}, CLOUD.get)
    assert whole.results.keys() == {"text"}


def test_a_class_that_is_no_text_is_of_no_pack() -> None:
    assert wanted({"1": {"class_type": {"a": 1}, "inputs": {}}}, None, PACK_NODES.keys()) == {}


def test_the_size_of_what_has_no_class_is_unknown() -> None:
    graph = {"1": {"class_type": [], "inputs": {"width": 8, "height": 8}}}
    assert Node("2", {}, graph, "~").size(["1", 0]) is None
