"""Node classes that a member may not use."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.members.member import DirectoryError, Limits, Member, NewMember, check_classes, validated
from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.errors import LocalError

CLASSES = object_info(standard_nodes())
GRAPH: dict[str, Any] = {
    "1": {"class_type": "FluxProUltraImageNode", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "3": {"class_type": "SaveAnimatedPNG", "inputs": {"images": ["1", 0]}},
}


def refusal(limits: Limits, graph: dict[str, Any] = GRAPH, classes: Any = CLASSES) -> LocalError:
    with pytest.raises(LocalError) as caught:
        check_classes(Member("anna", limits=limits), graph, classes.get)
    return caught.value


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(denied_classes=("Load*", "saveimage", "Save")),
        Limits(denied_classes=("SaveImage?",)),
    ],
)
def test_what_no_limit_names_is_allowed(limits: Limits) -> None:
    check_classes(Member("anna", limits=limits), GRAPH, CLASSES.get)


def test_a_refusal_names_the_member_the_node_and_the_limit() -> None:
    error = refusal(Limits(denied_classes=("Save*",)))
    assert error.kind == "forbidden"
    assert error.body() == {
        "error": {
            "type": "node_not_allowed",
            "message": "The member anna cannot use the node SaveImage (denied_classes: Save*); "
            "remove it from the workflow, or ask an admin of this server.",
            "details": "Node ID '#2'",
            "extra_info": {
                "node_id": "2",
                "class_type": "SaveImage",
                "limit": "denied_classes: Save*",
            },
        },
        "node_errors": {
            node_id: {
                "errors": [
                    {
                        "type": "node_not_allowed",
                        "message": "You cannot use this node",
                        "details": "denied_classes: Save*",
                        "extra_info": {"limit": "denied_classes: Save*"},
                    }
                ],
                "dependent_outputs": [],
                "class_type": class_type,
            }
            for node_id, class_type in (("2", "SaveImage"), ("3", "SaveAnimatedPNG"))
        },
    }


def test_partner_nodes_are_known_by_the_catalog() -> None:
    error = refusal(Limits(deny_partner_nodes=True))
    assert error.kind == "forbidden"
    assert list(error.node_errors) == ["1"]
    assert error.extra_info["limit"] == "deny_partner_nodes"


def test_partner_nodes_do_not_slip_through_before_the_catalog_is_there() -> None:
    error = refusal(Limits(deny_partner_nodes=True), classes={})
    assert error.kind == "unavailable"
    assert error.retry_after


def test_a_name_with_brackets_is_its_own_pattern() -> None:
    graph = {"1": {"class_type": "Load [pack]", "inputs": {}}}
    assert refusal(Limits(denied_classes=("Load [pack]",)), graph).kind == "forbidden"


def test_names_are_denied_without_a_catalog() -> None:
    assert refusal(Limits(denied_classes=("SaveImage",)), classes={}).kind == "forbidden"


@given(
    graph=st.dictionaries(
        st.text(max_size=2),
        st.none() | st.dictionaries(st.sampled_from(["class_type", "inputs"]), st.integers()),
    )
)
def test_nodes_without_a_class_are_not_its_business(graph: dict[str, Any]) -> None:
    limits = Limits(denied_classes=("*",), deny_partner_nodes=True)
    check_classes(Member("anna", limits=limits), graph, CLASSES.get)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"name": "bob", "role": "king"}, "`role`"),
        ({"name": "bob", "role": "\ud800"}, "not Unicode"),
        ({"name": "bob", "role": "k" * 10_000}, "Invalid enum value 'kkk"),
    ],
)
def test_a_refused_value_is_named_in_a_short_sentence(value: Any, reason: str) -> None:
    with pytest.raises(DirectoryError) as caught:
        validated(value, NewMember)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400
