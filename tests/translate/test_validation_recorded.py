"""Every refusal of a graph that a real ComfyUI was recorded with, given by our own check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from catalog_graphs import shapes

from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.validation import validate

RECORDINGS = Path(__file__).parent.parent / "recordings"


def recorded(name: str) -> list[dict[str, Any]]:
    text = (RECORDINGS / f"{name}.json").read_text(encoding="utf-8")
    return [event for event in json.loads(text)["events"] if event["kind"] == "http"]


def catalog() -> dict[str, Any]:
    """The classes as they were recorded, and the simulator's where none was.

    The recorder's own classes pass for ComfyUI's, so that all of their inputs are looked at.
    """
    classes = object_info(standard_nodes())
    for event in recorded("object_info_class"):
        for name, info in (event["response"]["body"].get("json") or {}).items():
            classes[name] = info | {"python_module": "nodes"}
    return classes


CLASSES = catalog()

#: What a class looks at by itself is the cloud's to say.
OWN_CHECKS = ("VALIDATE_INPUTS",)

#: The recorded version was before there was an error for cycles and one for missing classes.
OLDER = ("cycle", "unknown class", "missing class_type", "class_type null", "class_type empty")


def submissions() -> list[Any]:
    found = []
    for name in ("validation_errors", "prompt_partial_targets", "prompt_success_image"):
        for event in recorded(name):
            request, answer = event["request"], event["response"]
            body = request["body"].get("json")
            asked = isinstance(body, dict) and isinstance(body.get("prompt"), dict)
            targets = body.get("partial_execution_targets") if asked else None
            if asked and answer["status"] != 500 and not isinstance(targets, str):
                label = event.get("label") or "unnamed"
                found.append(pytest.param(label, body, answer, id=f"{name}: {label}"))
    return found


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what is of the recorded process, in an order that is not that of a Python set."""
    whole: dict[str, Any] = json.loads(json.dumps(answer))
    error, node_errors = whole.get("error"), whole.get("node_errors", {})
    if error is not None:
        error["details"] = sorted(error["details"].split("\n"))
    for about in node_errors.values():
        about["errors"].sort(key=lambda problem: str(problem["details"]))
        about["dependent_outputs"].sort()
        for problem in about["errors"]:
            if "traceback" in problem["extra_info"]:
                problem["extra_info"]["traceback"] = []
    return {"error": error, "node_errors": node_errors}


@pytest.mark.parametrize(("label", "body", "answer"), submissions())
def test_a_recorded_graph_is_judged_as_it_was(
    label: str, body: dict[str, Any], answer: dict[str, Any]
) -> None:
    found = validate(
        body["prompt"],
        body.get("partial_execution_targets"),
        shapes(CLASSES),
        has_file=lambda _: False,
    )
    if any(mark in label for mark in OWN_CHECKS):
        assert found.faultless
        return
    if label in OLDER:
        assert found.error is not None
        return
    ours = {"error": found.error, "node_errors": found.node_errors}
    theirs = answer["body"]["json"]
    assert comparable(ours) == comparable(theirs)


def test_the_recordings_show_what_they_are_thought_to_show() -> None:
    kinds = {
        reason["type"]
        for submission in submissions()
        for about in submission.values[2]["body"]["json"].get("node_errors", {}).values()
        for reason in about["errors"]
    }
    assert kinds == {
        "bad_linked_input",
        "custom_validation_failed",
        "exception_during_inner_validation",
        "exception_during_validation",
        "invalid_input_type",
        "required_input_missing",
        "return_type_mismatch",
        "value_bigger_than_max",
        "value_not_in_list",
        "value_smaller_than_min",
    }
