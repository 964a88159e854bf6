"""The cloud's names of files in graphs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.validation_files import foreign_files

HASH = "0123456789abcdef" * 4


def errors(value: Any, *own: str) -> dict[str, Any]:
    graph = {"1": {"class_type": "Any", "inputs": {"x": value}}}
    return foreign_files(graph, own.__contains__)


@pytest.mark.parametrize(
    "value",
    [
        HASH,
        f"{HASH}.png",
        f"{HASH}.png [output]",
        f"{HASH}.png[temp] ",
        f"sub/{HASH}.png",
        f"sub\\{HASH}.png",
        f"blake3:{HASH}",
        f"{HASH}.PNG".upper(),
        [f"{HASH}.png"],
        {"__value__": [f"{HASH}.png"]},
        {f"{HASH}.png": 1},
        [["deep", [f"{HASH}.png", 0, 0]]],
    ],
)
def test_a_name_that_is_not_the_members_is_refused(value: Any) -> None:
    (reason,) = errors(value)["1"]["errors"]
    assert reason["type"] == "custom_validation_failed"
    assert reason["extra_info"] == {"input_name": "x"}
    assert HASH in reason["details"].lower()


@pytest.mark.parametrize(
    "value",
    [
        "cat.png",
        HASH[1:],
        HASH + "0",
        f"the picture {HASH}.png is mine",
        f"{HASH}.tar.gz/x.png",
        "x" * 2000 + f"/{HASH}",
        [HASH, 0],
        7,
        None,
    ],
)
def test_other_strings_and_links_are_let_through(value: Any) -> None:
    assert errors(value) == {}


def test_the_members_own_name_is_let_through() -> None:
    assert errors([HASH, f"{HASH}.png", 1], HASH, f"{HASH}.png") == {}


@given(
    graph=st.dictionaries(
        st.text(max_size=2),
        st.recursive(
            st.none() | st.text() | st.just(HASH) | st.just("inputs"),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["inputs", "x", "class_type"]), inner)
            ),
        ),
    )
)
def test_any_json_is_looked_through(graph: Any) -> None:
    foreign_files(graph, lambda _: False)
