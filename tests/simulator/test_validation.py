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
