"""What people call a job, and what its nodes say that it has cost."""

from __future__ import annotations

from typing import Any

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.labels import MAX_LABEL, label_of


def named(**workflow: Any) -> dict[str, Any]:
    return {"extra_pnginfo": {"workflow": workflow}}


@pytest.mark.parametrize(
    ("graph", "extra_data", "label"),
    [
        (graphs.sampled(), {}, "v1-5-pruned-emaonly-fp16"),
        (graphs.sampled(), named(name="Portraits\n 2"), "Portraits 2"),
        (graphs.sampled(), named(id="1", name=7), "v1-5-pruned-emaonly-fp16"),
        (graphs.sampled(), {"workflow_name": "Night"}, "Night"),
        ({"1": {"inputs": {"unet_name": "flux\\dev.gguf"}}}, {}, "dev"),
        ({"1": {"inputs": {"unet_name": "a/b/flux.safetensors"}}}, {}, "flux"),
        (graphs.plain(), {}, "EmptyImage"),
        ({"1": {"class_type": "SaveImage"}}, {}, "SaveImage"),
        ({}, {}, ""),
        ({"1": None, "2": {"class_type": 1, "inputs": []}}, {"extra_pnginfo": []}, ""),
    ],
)
def test_a_job_is_called_by_its_workflow_its_model_or_a_node(
    graph: dict[str, Any], extra_data: dict[str, Any], label: str
) -> None:
    assert label_of(graph, extra_data) == label


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _JSON), st.dictionaries(st.text(), _JSON))
def test_whatever_a_client_sends_has_a_short_label(
    graph: dict[str, Any], extra_data: dict[str, Any]
) -> None:
    assert len(label_of(graph, extra_data)) <= MAX_LABEL
