"""The files in outputs of nodes, as the cloud has them and as core ComfyUI does."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate import output_files


def item(filename: str, **more: Any) -> dict[str, Any]:
    return {"filename": filename, "subfolder": "", "type": "output", **more}


A, B = item("a.mp4"), item("b.mp4")


@pytest.mark.parametrize(
    ("cloud", "local"),
    [
        ({"images": [A]}, {"images": [A]}),
        ({"gifs": [A], "text": ["x"]}, {"gifs": [A], "text": ["x"]}),
        ({"videos": [A]}, {"videos": [A]}),
        ({"video": [A]}, {"images": [A], "animated": [True]}),
        ({"video": [A], "videos": [A]}, {"images": [A], "animated": [True]}),
        ({"video": [A], "videos": [A, B]}, {"images": [A], "animated": [True], "videos": [B]}),
        ({"video": [A], "images": [A]}, {"images": [A], "animated": [True]}),
        (
            {"images": [A], "animated": [False], "video": [A]},
            {"images": [A], "animated": [False]},
        ),
        ({"video": [A], "gifs": [A]}, {"gifs": [A]}),
        ({"video": [A, B], "gifs": [A]}, {"gifs": [A], "images": [B], "animated": [True]}),
        ({"video": ["text"]}, {"video": ["text"]}),
        ({"video": "text"}, {"video": "text"}),
        ({}, {}),
    ],
)
def test_videos_are_where_core_comfyui_has_them(cloud: dict[str, Any], local: Any) -> None:
    assert output_files.with_core_keys(cloud) == local


def test_equal_pictures_of_a_batch_stay() -> None:
    assert output_files.with_core_keys({"images": [A, A]}) == {"images": [A, A]}


def test_files_are_the_items_with_a_filename() -> None:
    output = {"images": [A, "x", {"filename": 3}], "text": "y", "any": [None, B]}
    found = [("images", 0, A["filename"], A), ("any", 1, B["filename"], B)]
    assert list(output_files.files(output)) == found


def test_what_only_the_cloud_says_is_left_out_and_a_packs_own_fields_stay() -> None:
    cloud = {
        "display_name": "x.png",
        "format": "video/h264-mp4",
        "frame_rate": 8.0,
        "filename": "hash",
        "hash": "blake3:1",
        "id": "asset",
        "link": "https://storage/x?signature=1",
        "preview_url": "/api/view",
    }
    assert output_files.own_fields(cloud) == {"format": "video/h264-mp4", "frame_rate": 8.0}


@pytest.mark.parametrize(
    ("stated", "class_type", "type_"),
    [
        ("output", "SaveImage", "output"),
        ("temp", "SaveImage", "temp"),
        ("output", "PreviewImage", "temp"),
        (None, "PreviewImage", "temp"),
        (None, "SaveImage", "output"),
        ("bucket", "Unknown", "output"),
        ("input", "PreviewImage", "input"),
    ],
)
def test_the_folder_of_an_output(stated: str | None, class_type: str, type_: str) -> None:
    assert output_files.output_type({"type": stated}, {"class_type": class_type}) == type_
    assert output_files.output_type({"type": "temp"}, None) == "temp"


@pytest.mark.parametrize(
    ("name", "key", "class_type", "extension"),
    [
        ("x.PNG", "images", "SaveImage", ".png"),
        ("x", "images", "SaveImage", ".png"),
        ("x", "images", "SaveVideo", ".mp4"),
        ("x", "images", "SaveAnimatedWEBP", ".webp"),
        ("x", "audio", "SaveAudio", ".flac"),
        ("x", "3d", "SaveGLB", ".glb"),
    ],
)
def test_a_name_without_extension_gets_that_of_its_node(
    name: str, key: str, class_type: str, extension: str
) -> None:
    assert output_files.extension(name, key, {"class_type": class_type}) == extension
    assert output_files.extension("x", "images", None) == ".png"
