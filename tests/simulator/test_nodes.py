"""What single nodes give, and how they are described."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import pytest
from oracle_nodes import ORACLE_NODES
from PIL import Image

from proxy.simulator.nodes import (
    Output,
    encoding,
    mp4,
    object_info,
    sound,
    standard_nodes,
)
from proxy.simulator.nodes.values import Audio, Images

NODES = standard_nodes()
INFO = object_info(NODES)
RED, BLUE = (255, 0, 0), (0, 0, 255)


class Stage:
    """A context that remembers what it was told."""

    node_id = "1"

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.prompt: dict[str, Any] = {}
        self.extra_data: dict[str, Any] = {}
        self.told: list[Any] = []
        self.saved: list[tuple[str, str, str, bytes]] = []

    def progress(self, value: float, maximum: float) -> None:
        self.told.append((value, maximum))

    def picture(self, image: bytes, image_type: str = "image/jpeg") -> None:
        self.told.append(image_type)

    def text(self, text: str) -> None:
        self.told.append(text)

    async def step(self) -> None:
        pass

    def load(self, name: str) -> bytes:
        return self.files[name]

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str = "output",  # noqa: A002
    ) -> dict[str, Any]:
        self.saved.append((prefix, extension, type, data))
        return {"filename": f"hash{extension}", "subfolder": "", "type": type}


async def output(name: str, stage: Stage | None = None, **inputs: Any) -> Output:
    given = await NODES[name].run(inputs, stage or Stage())
    return given if isinstance(given, Output) else Output(given or ())


async def value(name: str, stage: Stage | None = None, **inputs: Any) -> Any:
    return (await output(name, stage, **inputs)).values[0]


def plain(colour: Any = RED, size: tuple[int, int] = (4, 4), count: int = 1) -> Images:
    return Images((Image.new("RGB", size, colour),) * count)


def png(picture: Image.Image) -> bytes:
    return encoding.png(picture)


@pytest.mark.parametrize("name", sorted(INFO))
def test_a_class_is_described_with_all_fields_of_the_newest_comfyui(name: str) -> None:
    info = INFO[name]
    assert {
        "input",
        "input_order",
        "is_input_list",
        "output",
        "output_is_list",
        "output_name",
        "name",
        "display_name",
        "description",
        "python_module",
        "category",
        "output_node",
        "has_intermediate_output",
        "search_aliases",
    } <= set(info)
    assert info["name"] == name
    assert json.loads(json.dumps(info)) == info
    assert len(info["output"]) == len(info["output_is_list"]) == len(info["output_name"])
    for group, specs in info["input"].items():
        assert info["input_order"][group] == list(specs)
        if group != "hidden":
            assert all(isinstance(spec, list) and len(spec) in (1, 2) for spec in specs.values())


def test_a_combo_comes_in_the_old_and_in_the_new_form() -> None:
    old = INFO["KSampler"]["input"]["required"]["sampler_name"]
    new = INFO["KSamplerSelect"]["input"]["required"]["sampler_name"]
    assert old[0] == new[1]["options"]
    assert new[0] == "COMBO"
    assert "euler" in old[0]


def test_uploads_stand_in_the_lists_of_their_kind() -> None:
    info = object_info(NODES, ["b.png", "a.png", "a.mp4", "a.wav"])
    assert info["LoadImage"]["input"]["required"]["image"][0] == ["a.png", "b.png"]
    assert info["LoadVideo"]["input"]["required"]["file"][1]["options"] == ["a.mp4"]
    assert info["LoadAudio"]["input"]["required"]["audio"][1]["options"] == ["a.wav"]
    assert "options" not in info["LoadImageOutput"]["input"]["required"]["image"][1]
    assert object_info(NODES) == INFO


def test_the_recorded_pack_is_described_alike() -> None:
    pack = {node.name: node for node in ORACLE_NODES}
    assert object_info(pack)["OracleValidate"] == {
        "input": {
            "required": {
                "kind": [["ok", "false", "string", "raise", "block"]],
                "number": ["INT", {"default": 1, "min": 0, "max": 2}],
            },
            "optional": {"image": ["IMAGE"]},
        },
        "input_order": {"required": ["kind", "number"], "optional": ["image"]},
        "is_input_list": False,
        "output": ["STRING"],
        "output_is_list": [False],
        "output_name": ["STRING"],
        "name": "OracleValidate",
        "display_name": "OracleValidate",
        "description": "",
        "python_module": "custom_nodes.oracle_nodes",
        "category": "oracle",
        "output_node": True,
        "has_intermediate_output": False,
        "search_aliases": [],
        "deprecated": True,
    }


async def test_a_saved_picture_carries_graph_and_workflow() -> None:
    stage = Stage()
    await output(
        "SaveImage",
        stage,
        images=plain(),
        filename_prefix="x",
        prompt={"1": {"class_type": "é"}},
        extra_pnginfo={"workflow": {"id": "w"}, "other": [1]},
    )
    ((_, extension, kind, data),) = stage.saved
    assert (extension, kind) == (".png", "output")
    picture = Image.open(io.BytesIO(data))
    assert picture.info == {
        "prompt": '{"1": {"class_type": "\\u00e9"}}',
        "workflow": '{"id": "w"}',
        "other": "[1]",
    }
    assert b"tEXtprompt\0" in data


async def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer or smaller ones"):
        await value("EmptyImage", width=16384, height=16384, batch_size=4096, color=0)


async def test_an_animation_is_loaded_as_a_batch() -> None:
    data = encoding.animation(
        [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)], "GIF", 5
    )
    images = await value("LoadImage", Stage(a=data), image="a")
    assert [picture.getpixel((0, 0)) for picture in images.pictures] == [RED, BLUE]


@pytest.mark.parametrize(
    ("channel", "level"), [("red", 10), ("green", 20), ("blue", 30), ("alpha", 215)]
)
async def test_a_mask_is_loaded_from_a_channel(channel: str, level: int) -> None:
    stage = Stage(a=png(Image.new("RGBA", (1, 1), (10, 20, 30, 40))))
    masks = await value("LoadImageMask", stage, image="a", channel=channel)
    assert masks.pictures[0].getpixel((0, 0)) == level


async def test_a_video_is_an_mp4_of_its_pictures() -> None:
    stage = Stage()
    video = await value("CreateVideo", images=plain(size=(16, 8), count=3), fps=12.0)
    shown = await output("SaveVideo", stage, video=video, filename_prefix="video/x")
    assert shown.ui == {"video": [{"filename": "hash.mp4", "subfolder": "", "type": "output"}]}
    ((prefix, extension, _, data),) = stage.saved
    assert (prefix, extension) == ("video/x", ".mp4")
    assert data[4:8] == b"ftyp"
    back = await value("LoadVideo", Stage(v=data), file="v")
    assert [picture.size for picture in back.pictures] == [(16, 8)] * 3
    images, _, fps = (await output("GetVideoComponents", video=video)).values
    assert (len(images.pictures), fps) == (3, 12.0)


def test_mp4_boxes_tell_where_each_picture_is() -> None:
    pictures = [b"\xff\xd8\xffone\xff\xd9", b"\xff\xd8\xffthree\xff\xd9"]
    data = mp4.encode(pictures, (16, 8), 24)
    table = data.index(b"stco")
    count, first, second = struct.unpack(">3I", data[table + 8 : table + 20])
    assert count == 2
    assert data[first:].startswith(pictures[0])
    assert data[second:].startswith(pictures[1])


def test_flac_has_the_header_and_the_frames_of_the_format() -> None:
    data = sound.flac(Audio(struct.pack("<3h", 1, -2, 3), 44100, 1))
    assert data[:8] == b"fLaC\x80\x00\x00\x22"
    assert data[42:44] == b"\xff\xf8"
    assert data[-8:-2] == b"\x00\x01\xff\xfe\x00\x03"


@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError", "KeyError", "MemoryError"])
async def test_the_raising_node_raises_the_given_error(kind: str) -> None:
    with pytest.raises(Exception, match="no way") as caught:
        await value("SimulatorRaise", kind=kind, message="no way")
    assert type(caught.value).__name__ == kind
