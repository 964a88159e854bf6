"""The cloud's node classes as a local ComfyUI lists them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.catalog.nodes import Nodes, read

HASH = "a" * 64


def loader(options: list[Any], flags: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"required": {"file": [options, flags]}}}


def choices(info: dict[str, Any], *files: str) -> Any:
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", files))
    return entry["Loader"]["input"]["required"]["file"][0]


FILES = "b.png", "a.webp", "clip.mp4", "song.flac", "notes.txt", "sub/c.png", "no extension"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("image_upload", ["a.webp", "b.png"]),
        ("animated_image_upload", ["a.webp", "b.png"]),
        ("video_upload", ["clip.mp4"]),
        ("audio_upload", ["clip.mp4", "song.flac"]),
    ],
)
def test_an_upload_input_lists_the_files_of_its_kind(flag: str, expected: list[str]) -> None:
    assert choices(loader([], {flag: True}), *FILES) == expected


def test_the_clouds_own_choices_stay_and_hashes_go() -> None:
    offered = ["example.png", f"{HASH}.png", HASH, f"blake3:{HASH}", f"{HASH}.png [output]"]
    assert choices(loader(offered, {"image_upload": True}), "b.png") == ["b.png", "example.png"]


def test_a_new_style_list_is_filled_too() -> None:
    info = {"input": {"optional": {"file": ["COMBO", {"video_upload": True, "options": []}]}}}
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", ["clip.mp4"]))
    options = entry["Loader"]["input"]["optional"]["file"][1]["options"]
    assert options == ["clip.mp4"]


@pytest.mark.parametrize(
    "info",
    [
        loader(["x"], {}),
        loader(["x"], {"image_upload": False}),
        loader(["x"], {"image_upload": True, "image_folder": "output"}),
        {"input": {"required": {"file": ["STRING", {"image_upload": True}]}}},
        {"input": {"required": {"file": ["IMAGE"]}}},
        {"input": {"required": ["odd"]}},
        {"input": None},
        {},
    ],
)
def test_other_inputs_are_left_as_they_are(info: dict[str, Any]) -> None:
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", ["b.png"]))
    assert entry["Loader"].items() >= info.items()


def test_fields_that_comfyui_always_has_are_filled_in() -> None:
    nodes = Nodes({"A": {"search_aliases": ["x"]}})
    assert nodes["A"] == {
        "is_input_list": False,
        "has_intermediate_output": False,
        "search_aliases": ["x"],
    }


def test_the_whole_is_all_classes_in_comfyuis_json() -> None:
    nodes = read(b'{"A":{"x":18446744073709551615,"y":"\xc3\xa9"},"B":{},"odd":5}')
    whole = b"".join(nodes.whole.body([], "identity").pieces)
    assert whole == json.dumps({"A": nodes["A"], "B": nodes["B"]}).encode()
    assert b'"x": 18446744073709551615, "y": "\\u00e9"' in whole


def test_one_class_is_a_part_of_the_whole() -> None:
    nodes = Nodes({"A": {}, "Loader": loader(["x.png"], {"image_upload": True}), "B": {}})
    one = nodes.one_json("Loader", ["b.png"])
    assert b", " + one[1:-1] + b", " in b"".join(nodes.whole.body(["b.png"], "identity").pieces)


def test_every_list_of_a_class_is_filled() -> None:
    flags = {"image_upload": True}
    sections = {"optional": {"c": [["c.png"], flags]}, "required": {"a": [["a.png"], flags]}}
    entry = json.loads(Nodes({"L": {"input": sections}}).one_json("L", ["b.png"]))["L"]["input"]
    assert entry["optional"]["c"][0] == ["b.png", "c.png"]
    assert entry["required"]["a"][0] == ["a.png", "b.png"]


def test_an_unknown_class_is_an_empty_object() -> None:
    assert Nodes({"A": {}}).one_json("B", []) == b"{}"


def test_it_is_a_mapping_that_parses_what_is_asked_for() -> None:
    nodes = Nodes({"A": {"x": 1}, "B": {}})
    assert (list(nodes), len(nodes), "A" in nodes, nodes.get("C")) == (["A", "B"], 2, True, None)
    assert nodes["A"] is nodes["A"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"<html>"])
def test_what_is_no_catalogue_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(body)
