"""What lists of jobs tell of outputs."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate.outputs import Summary, normalized, summary

SAVED = {"filename": "s.png", "subfolder": "", "type": "output"}
TEMP = {"filename": "t.png", "subfolder": "", "type": "temp"}
NOTES = {"filename": "notes.TXT", "subfolder": "", "type": "output"}
LATENT = {"filename": "l.latent", "subfolder": "", "type": "output"}
GIF = {"filename": "v.mp4", "subfolder": "", "type": "output", "format": "video/h264-mp4"}
MODEL = {"filename": "x.GLB", "type": "output", "subfolder": "", "mediaType": "3d"}


def shown(item: dict[str, Any], node: str = "1", media: str = "images") -> dict[str, Any]:
    return {"mediaType": media, **item, "nodeId": node}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({}, Summary(0, 0, None)),
        ({"1": None, "2": {"images": "x", "animated": [True]}}, Summary(0, 0, None)),
        (
            {"1": {"images": [TEMP]}, "2": {"images": [SAVED], "animated": [True]}},
            Summary(2, 2, shown(SAVED, "2")),
        ),
        ({"1": {"images": [TEMP, SAVED | {"type": "temp"}]}}, Summary(2, 2, shown(TEMP))),
        ({"1": {"text": ["hello"]}}, Summary(0, 0, shown({"content": "hello"}, media="text"))),
        ({"1": {"text": [["hello"], 2]}}, Summary(0, 0, shown({"content": "hello"}, media="text"))),
        (
            {"1": {"text": ["x" * 1025]}},
            Summary(0, 0, shown({"content": "x" * 1024, "truncated": True}, media="text")),
        ),
        ({"1": {"text": ["a"]}, "2": {"images": [TEMP]}}, Summary(1, 1, shown(TEMP, "2"))),
        (
            {"1": {"text": ["a"]}, "2": {"files": [NOTES]}},
            Summary(1, 1, shown(NOTES, "2", "files")),
        ),
        ({"1": {"files": [NOTES]}, "2": {"images": [TEMP]}}, Summary(2, 2, shown(TEMP, "2"))),
        ({"1": {"latents": [LATENT]}}, Summary(1, 0, None)),
        ({"1": {"gifs": [GIF]}}, Summary(1, 1, shown(GIF, media="gifs"))),
        ({"1": {"gifs": [SAVED]}}, Summary(1, 0, None)),
        ({"1": {"result": ["x.GLB", None, "y"]}}, Summary(1, 1, {**MODEL, "nodeId": "1"})),
        ({"1": {"images": [{"filename": 3}]}}, Summary(1, 1, shown({"filename": 3}))),
    ],
)
def test_outputs_are_counted_and_shown_as_by_comfyui(
    outputs: dict[str, Any], expected: Summary
) -> None:
    assert summary(outputs) == expected


def test_the_detail_has_models_as_items_and_no_null() -> None:
    outputs = {"1": {"result": ["x.GLB", None, "y"], "text": ["a"], "flag": True}, "2": None}
    assert normalized(outputs) == {
        "1": {"result": [MODEL, "y"], "text": ["a"], "flag": True},
        "2": None,
    }
