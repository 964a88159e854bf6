"""Classes of packs are shown with the words and the values of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.packs.discovery import PACK_NODES

RECORDINGS = Path(__file__).parents[1] / "recordings"

#: Lists of the server's own files, which are texts here.
FILES = {("BlenderInputLoad3D", "model_file")}


def _read(name: str) -> Any:
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


def _tooling() -> dict[str, Any]:
    events = _read("etn_object_info")["events"]
    answers = [event.get("response", {}).get("body", {}) for event in events]
    shown = (answer["json"] for answer in answers if isinstance(answer.get("json"), dict))
    return {name: info for each in shown for name, info in each.items() if name in PACK_NODES}


REAL: dict[str, Any] = {**_read("nodes/node_classes")["classes"], **_tooling()}


@pytest.mark.parametrize("name", REAL)
def test_a_class_has_the_words_of_the_real_one(name: str) -> None:
    real, info = REAL[name], PACK_NODES[name].info
    for field in ("display_name", "description", "category"):
        assert info[field] == real[field]


@pytest.mark.parametrize("name", REAL)
def test_the_inputs_of_a_class_have_the_values_and_tooltips_of_the_real_one(name: str) -> None:
    shown = json.loads(json.dumps(PACK_NODES[name].info))["input"]
    for group, specs in REAL[name]["input"].items():
        for input_, spec in specs.items():
            if (name, input_) not in FILES:
                assert shown[group][input_] == spec, input_


def test_all_classes_of_all_packs_are_compared() -> None:
    assert REAL.keys() == PACK_NODES.keys()
