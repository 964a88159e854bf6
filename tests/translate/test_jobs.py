"""The cloud's names of files in graphs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.jobs import deep_prefixes, foreign_files

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


@pytest.mark.parametrize(
    ("prefix", "is_deep"),
    [
        ("x/" * 32 + "picture", False),
        ("x/" * 33 + "picture", True),
        ("x\\" * 33 + "picture", True),
        ("x/../" * 40 + "picture", False),
        ("//" * 40 + "picture", False),
        (["3", 0], False),
        (None, False),
    ],
)
def test_a_prefix_with_too_many_folders_is_an_error_of_its_node(prefix: Any, is_deep: bool) -> None:
    graph = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}}}
    assert list(deep_prefixes(graph)) == (["2"] if is_deep else [])
