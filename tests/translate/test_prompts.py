"""Which texts of a graph are its prompt, and which workflow came with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.prompts import (
    MAX_CHARACTERS,
    MAX_TEXTS,
    PromptText,
    interface_workflow,
    prompt_texts,
)

ENCODE = {"input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}}}
LOADER = {"input": {"required": {"text_encoder": [["a", "b"]], "name": ["STRING", {}]}}}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.mark.parametrize(
    ("graph", "texts"),
    [
        ({"6": node("Encode", text=" a cat ")}, [("6", "text", "", "a cat")]),
        ({"6": node("Encode", text="  ")}, []),
        ({"6": node("Encode", text=["5", 0])}, []),
        ({"4": node("Loader", text_encoder="a", name="x")}, []),
        ({"1": node("Other", my_Prompt="a dog", mode="fast")}, [("1", "my_Prompt", "", "a dog")]),
        (
            {
                "3": node("Sampler", positive=["6", 0], negative=["7", 0]),
                "6": node("Encode", text="a cat"),
                "7": node("Encode", text="blurry"),
            },
            [("6", "text", "positive", "a cat"), ("7", "text", "negative", "blurry")],
        ),
        ({"1": None, "2": [], "3": {"inputs": None}, "4": node("Other", text=5)}, []),
    ],
)
def test_the_texts_of_a_graph(graph: Any, texts: list[tuple[str, ...]]) -> None:
    known: dict[str, Any] = {"Encode": ENCODE, "Loader": LOADER}
    found = prompt_texts(graph, known.get)
    assert [(text.node, text.input, text.role, text.text) for text in found] == texts


def test_texts_are_few_and_cut() -> None:
    graph = {str(number): node("Other", text="x" * 9000) for number in range(30)}
    found = prompt_texts(graph, lambda _: None)
    assert found[0] == PromptText("0", "Other", "text", "", "x" * MAX_CHARACTERS)
    assert len(found) == MAX_TEXTS


@pytest.mark.parametrize(
    ("extra_data", "workflow"),
    [
        ({"extra_pnginfo": {"workflow": {"nodes": []}}}, {"nodes": []}),
        ({"extra_pnginfo": {"workflow": {"name": "no nodes"}}}, None),
        ({"extra_pnginfo": {"workflow": []}}, None),
        ({"extra_pnginfo": 5}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_workflow_of_the_web_interface_has_nodes(extra_data: Any, workflow: Any) -> None:
    assert interface_workflow(extra_data) == workflow


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _JSON), _JSON)
def test_whatever_a_client_sends_is_read(graph: dict[str, Any], extra_data: Any) -> None:
    prompt_texts(graph, lambda _: None)
    interface_workflow(extra_data)
