"""The node classes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.catalog.node_classes import Nodes, read

HASH = "a" * 64


def loader(options: list[Any], flags: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"required": {"file": [options, flags]}}}


def choices(info: dict[str, Any], *files: str) -> Any:
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", dict.fromkeys(files)))
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
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", {"clip.mp4": 9}))
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
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", {"b.png": None}))
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
    whole = b"".join(nodes.whole.body({}, "identity").pieces)
    assert whole == json.dumps({"A": nodes["A"], "B": nodes["B"]}).encode()
    assert b'"x": 18446744073709551615, "y": "\\u00e9"' in whole


def test_one_class_is_a_part_of_the_whole() -> None:
    nodes = Nodes({"A": {}, "Loader": loader(["x.png"], {"image_upload": True}), "B": {}})
    files = {"b.png": 5}
    single = nodes.one_json("Loader", files)
    assert b", " + single[1:-1] + b", " in b"".join(nodes.whole.body(files, "identity").pieces)


def test_every_list_of_a_class_is_filled() -> None:
    flags = {"image_upload": True}
    sections = {"optional": {"c": [["c.png"], flags]}, "required": {"a": [["a.png"], flags]}}
    entry = json.loads(Nodes({"L": {"input": sections}}).one_json("L", {"b.png": 5}))["L"]["input"]
    assert entry["optional"]["c"][0] == ["b.png", "c.png"]
    assert entry["required"]["a"][0] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("name", "input_name", "expected"),
    [
        ("LoadImageMask", "image", ["a.png", "b.latent", "c.PDF", "d.pdf", "e.txt"]),
        ("LoadImageSetNode", "images", ["a.png"]),
        ("LoadLatent", "latent", ["b.latent"]),
        ("GeminiInputFiles", "file", ["d.pdf", "e.txt"]),
        ("OpenAIInputFiles", "file", ["d.pdf", "e.txt"]),
        ("Load3D", "model_file", ["3d/f.GLB", "3d/x/g.obj"]),
        ("LoadImageDataSetFromFolder", "folder", ["3d", "3d/x", "set"]),
        ("LoadImageTextSetFromFolderNode", "folder", ["3d", "3d/x", "set"]),
        ("Load3D", "image", []),
        ("Other", "latent", []),
    ],
)
@pytest.mark.parametrize("new_style", [False, True])
def test_classes_that_list_something_else(
    name: str, input_name: str, expected: list[str], new_style: bool
) -> None:
    files = ["a.png", "b.latent", "c.PDF", "d.pdf", "e.txt"]
    files += ["3d/f.GLB", "3d/x/g.obj", "3d/h.png", "set/i.png"]
    spec: list[Any] = ["COMBO", {"options": [], "tooltip": "x"}] if new_style else [[]]
    info = {"name": name, "input": {"required": {input_name: spec}}}
    filled = json.loads(Nodes({name: info}).one_json(name, dict.fromkeys(files)))[name]
    given = filled["input"]["required"][input_name]
    assert (given[1]["options"] if new_style else given[0]) == expected


@pytest.mark.parametrize(
    ("name", "megabytes"), [("GeminiInputFiles", 20), ("OpenAIInputFiles", 32)]
)
def test_partner_nodes_list_no_file_that_they_cannot_send(name: str, megabytes: int) -> None:
    info = {"name": name, "input": {"required": {"file": ["COMBO", {"options": []}]}}}
    limit = megabytes * 1024 * 1024
    files = {"a.txt": limit, "b.pdf": limit - 1, "c.txt": None}
    filled = json.loads(Nodes({name: info}).one_json(name, files))[name]
    assert filled["input"]["required"]["file"][1]["options"] == ["b.pdf", "c.txt"]


def test_an_unknown_class_is_an_empty_object() -> None:
    assert Nodes({"A": {}}).one_json("B", {}) == b"{}"


def test_it_is_a_mapping_that_parses_what_is_asked_for() -> None:
    nodes = Nodes({"A": {"x": 1}, "B": {}})
    assert (list(nodes), len(nodes), "A" in nodes, nodes.get("C")) == (["A", "B"], 2, True, None)
    assert nodes["A"] is nodes["A"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"<html>"])
def test_what_is_no_catalog_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(body)
