"""What single nodes give, and how they are described."""

from __future__ import annotations

import io
import json
import struct
import time
import wave
from typing import Any

import pytest
from oracle_nodes import ORACLE_NODES
from PIL import Image

from proxy.simulator.nodes import (
    MODEL_FILES,
    NodeClass,
    Output,
    encoding,
    mp4,
    object_info,
    sound,
    standard_nodes,
)
from proxy.simulator.nodes.painting import noise, paint
from proxy.simulator.nodes.values import Audio, Conditioning, Images, Latent, Masks, Video, Weights

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


def mask(level: int = 255, size: tuple[int, int] = (4, 4)) -> Masks:
    return Masks((Image.new("L", size, level),))


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


def test_there_are_some_forty_classes_and_more() -> None:
    assert len(INFO) >= 40


def test_a_combo_comes_in_the_old_and_in_the_new_form() -> None:
    old = INFO["KSampler"]["input"]["required"]["sampler_name"]
    new = INFO["KSamplerSelect"]["input"]["required"]["sampler_name"]
    assert old[0] == new[1]["options"]
    assert new[0] == "COMBO"
    assert "euler" in old[0]


@pytest.mark.parametrize(
    ("name", "field", "flag"),
    [
        ("LoadImage", "image", "image_upload"),
        ("LoadImageMask", "image", "image_upload"),
        ("LoadImageOutput", "image", "image_upload"),
        ("LoadAudio", "audio", "audio_upload"),
        ("LoadVideo", "file", "video_upload"),
    ],
)
def test_inputs_for_files_are_flagged(name: str, field: str, flag: str) -> None:
    assert INFO[name]["input"]["required"][field][1][flag] is True


def test_uploads_stand_in_the_lists_of_their_kind() -> None:
    info = object_info(NODES, ["b.png", "a.png", "a.mp4", "a.wav"])
    assert info["LoadImage"]["input"]["required"]["image"][0] == ["a.png", "b.png"]
    assert info["LoadVideo"]["input"]["required"]["file"][1]["options"] == ["a.mp4"]
    assert info["LoadAudio"]["input"]["required"]["audio"][1]["options"] == ["a.wav"]
    assert "options" not in info["LoadImageOutput"]["input"]["required"]["image"][1]
    assert object_info(NODES) == INFO


def test_a_partner_node_is_marked() -> None:
    assert [name for name, info in INFO.items() if info.get("api_node")] == [
        "FluxProUltraImageNode"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "v1-5-pruned-emaonly.safetensors",
        "v1-5-pruned-emaonly-fp16.safetensors",
        "sd_xl_base_1.0.safetensors",
    ],
)
def test_the_checkpoints_of_the_common_examples_are_there(name: str) -> None:
    assert name in MODEL_FILES["checkpoints"]


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


def test_a_class_without_inputs_still_has_its_group_of_required_ones() -> None:
    async def run(_inputs: dict[str, Any], _context: object) -> Output:
        return Output()

    assert NodeClass("Bare", run).object_info()["input"] == {"required": {}}


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


@pytest.mark.parametrize("extra", [None, [], "x"])
async def test_what_is_no_object_is_left_out_of_the_picture(extra: object) -> None:
    stage = Stage()
    await output(
        "SaveImage", stage, images=plain(), filename_prefix="x", prompt={}, extra_pnginfo=extra
    )
    assert list(Image.open(io.BytesIO(stage.saved[0][3])).info) == ["prompt"]


async def test_a_prefix_may_ask_for_the_size() -> None:
    stage = Stage()
    await output(
        "SaveImage",
        stage,
        images=plain(size=(8, 4)),
        filename_prefix="sub dir/p_%width%x%height%",
        prompt={},
        extra_pnginfo=None,
    )
    assert stage.saved[0][0] == "sub dir/p_8x4"


async def test_a_preview_is_temporary() -> None:
    stage = Stage()
    shown = await output("PreviewImage", stage, images=plain(), prompt={}, extra_pnginfo=None)
    assert stage.saved[0][2] == "temp"
    assert stage.saved[0][0].startswith("ComfyUI_temp_")
    assert shown.ui is not None
    assert shown.ui["images"][0]["type"] == "temp"


async def test_an_empty_image_has_its_colour() -> None:
    images = await value("EmptyImage", width=3, height=2, batch_size=2, color=0xFF8800)
    assert [picture.size for picture in images.pictures] == [(3, 2)] * 2
    assert images.pictures[0].getpixel((0, 0)) == (255, 136, 0)


async def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer or smaller ones"):
        await value("EmptyImage", width=16384, height=16384, batch_size=4096, color=0)


async def test_a_loaded_picture_gives_colours_and_inverted_alpha() -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 255, 0))
    images, masks = (
        await output("LoadImage", Stage(**{"a.png": png(picture)}), image="a.png")
    ).values
    assert [images.pictures[0].getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]
    assert [masks.pictures[0].getpixel((x, 0)) for x in (0, 1)] == [0, 255]


async def test_a_picture_without_alpha_has_an_empty_mask_of_64() -> None:
    stage = Stage(**{"a.png": png(Image.new("RGB", (2, 1)))})
    masks = (await output("LoadImage", stage, image="a.png")).values[1]
    assert masks.pictures[0].size == (64, 64)
    assert masks.pictures[0].getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
async def test_pictures_of_any_mode_are_loaded(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (2, 2)).save(buffer, "TIFF" if mode in ("CMYK", "I", "F") else "PNG")
    images = await value("LoadImage", Stage(a=buffer.getvalue()), image="a")
    assert images.pictures[0].mode == "RGB"


async def test_16_bit_greys_become_8_bit_ones() -> None:
    buffer = io.BytesIO()
    Image.new("I;16", (1, 1), 0x8000).save(buffer, "PNG")
    images = await value("LoadImage", Stage(a=buffer.getvalue()), image="a")
    assert images.pictures[0].getpixel((0, 0)) == (128, 128, 128)


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


@pytest.mark.parametrize(
    ("width", "height", "size"), [(2, 3, (2, 3)), (0, 2, (4, 2)), (4, 0, (4, 2)), (0, 0, (8, 4))]
)
async def test_scaling_to_zero_keeps_the_proportions(
    width: int, height: int, size: tuple[int, int]
) -> None:
    images = await value(
        "ImageScale",
        image=plain(size=(8, 4)),
        upscale_method="area",
        width=width,
        height=height,
        crop="disabled",
    )
    assert images.pictures[0].size == size


@pytest.mark.parametrize("crop", ["disabled", "center"])
@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
async def test_all_ways_of_scaling_work(method: str, crop: str) -> None:
    of_one_color, of_many = plain(), plain()
    of_many.pictures[0].putpixel((0, 0), (0, 0, 9))
    for image in (of_one_color, of_many):
        images = await value(
            "ImageScale", image=image, upscale_method=method, width=9, height=5, crop=crop
        )
        assert images.pictures[0].size == (9, 5)
        last = images.pictures[0].getpixel((8, 4))
        assert last == image.pictures[0].getpixel((3, 3))


async def test_scaling_lasts_as_long_as_the_picture_is_large() -> None:
    began = time.monotonic()
    image = await value("EmptyImage", width=4096, height=4096, batch_size=1, color=0xFF8800)
    for side in (4095, 4096):
        image = await value(
            "ImageScale",
            image=image,
            upscale_method="lanczos",
            width=side,
            height=side,
            crop="disabled",
        )
    assert time.monotonic() - began > 0.16


async def test_pictures_of_one_size_and_color_share_their_memory() -> None:
    images = [
        await value("EmptyImage", width=9, height=9, batch_size=1, color=color)
        for color in (0xFF8800, 0xFF8800, 0)
    ]
    images += [
        await value("ImageScaleBy", image=images[0], upscale_method="area", scale_by=scale)
        for scale in (2.0, 1.0)
    ]
    first, same, black, large, scaled = (image.pictures[0] for image in images)
    assert same is first
    assert scaled is first
    assert black is not first
    assert (large.size, large.getcolors()) == ((18, 18), [(18 * 18, (255, 136, 0))])


async def test_more_nodes_on_sizes() -> None:
    wide = plain(size=(8, 4))
    half = await value("ImageScaleBy", image=wide, upscale_method="area", scale_by=0.5)
    assert half.pictures[0].size == (4, 2)
    whole = await value(
        "ImageScaleToTotalPixels", image=wide, upscale_method="area", megapixels=0.01
    )
    assert abs(whole.pictures[0].width * whole.pictures[0].height - 10486) < 200
    cut = await value("ImageCrop", image=wide, width=3, height=9, x=2, y=1)
    assert cut.pictures[0].size == (3, 3)
    padded, edge = (
        await output(
            "ImagePadForOutpaint", image=wide, left=8, top=0, right=0, bottom=8, feathering=0
        )
    ).values
    assert padded.pictures[0].size == edge.pictures[0].size == (16, 12)
    assert edge.pictures[0].getpixel((8, 0)) == 0
    assert edge.pictures[0].getpixel((7, 0)) == 255
    stage = Stage()
    assert (await output("GetImageSize", stage, image=wide)).values == (8, 4, 1)
    assert stage.told == ["width: 8, height: 4\n batch size: 1"]
    model = await value("UpscaleModelLoader", model_name="RealESRGAN_x4plus.safetensors")
    large = await value("ImageUpscaleWithModel", upscale_model=model, image=wide)
    assert large.pictures[0].size == (32, 16)


async def test_inverting_gives_the_complement() -> None:
    images = await value("ImageInvert", image=plain())
    assert images.pictures[0].getpixel((0, 0)) == (0, 255, 255)


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        ("normal", (128, 0, 128)),
        ("multiply", (128, 0, 0)),
        ("screen", (255, 0, 128)),
        ("difference", (255, 0, 128)),
        ("overlay", None),
        ("soft_light", None),
    ],
)
async def test_blending_mixes_two_pictures(mode: str, colour: object) -> None:
    images = await value(
        "ImageBlend", image1=plain(), image2=plain(BLUE), blend_factor=0.5, blend_mode=mode
    )
    pixel = images.pictures[0].getpixel((0, 0))
    assert colour is None or all(abs(a - b) <= 1 for a, b in zip(pixel, colour, strict=True))  # type: ignore[call-overload]


async def test_a_batch_takes_the_size_of_its_first_picture() -> None:
    both = await value("ImageBatch", image1=plain(), image2=plain(BLUE, (9, 5)))
    assert [picture.size for picture in both.pictures] == [(4, 4), (4, 4)]
    assert len((await value("RepeatImageBatch", image=both, amount=3)).pictures) == 6


async def test_a_composite_shows_its_source_where_the_mask_is() -> None:
    half = Image.new("L", (4, 4))
    half.paste(255, (0, 0, 2, 4))
    images = await value(
        "ImageCompositeMasked",
        destination=plain(),
        source=plain(BLUE),
        x=0,
        y=0,
        resize_source=False,
        mask=Masks((half,)),
    )
    assert images.pictures[0].getpixel((0, 0)) == BLUE
    assert images.pictures[0].getpixel((3, 0)) == RED


async def test_masks_are_made_inverted_and_turned_to_pictures_and_back() -> None:
    solid = await value("SolidMask", value=1.0, width=5, height=6)
    inverted = await value("InvertMask", mask=solid)
    assert inverted.pictures[0].getextrema() == (0, 0)
    picture = await value("MaskToImage", mask=solid)
    assert picture.pictures[0].getpixel((0, 0)) == (255, 255, 255)
    red = await value("ImageToMask", image=plain(), channel="red")
    assert red.pictures[0].getpixel((0, 0)) == 255
    opaque = await value("ImageToMask", image=plain(), channel="alpha")
    assert opaque.pictures[0].getpixel((0, 0)) == 255
    dot = Image.new("L", (5, 5))
    dot.putpixel((2, 2), 255)
    grown = await value("GrowMask", mask=Masks((dot,)), expand=1, tapered_corners=True)
    assert grown.pictures[0].getpixel((1, 1)) == 255
    dark = await value("ThresholdMask", mask=mask(100), value=0.5)
    assert dark.pictures[0].getextrema() == (0, 0)


def test_the_painter_knows_colours_by_name() -> None:
    red, _, blue = paint("a purple galaxy", 1, (64, 64)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 100
    assert blue > 100


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 3), (3, 200)])
def test_the_painter_paints_any_size(size: tuple[int, int]) -> None:
    assert paint("x", 0, size).size == noise(0, size).size == size


def test_the_painter_takes_any_text() -> None:
    assert paint("\ud800 世界 " * 99, 2**70, (8, 8)).size == (8, 8)


_MODEL = Weights("MODEL", ("m",))
_ASKED: dict[str, Any] = {
    "model": _MODEL,
    "cfg": 8.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "positive": Conditioning(("a hill",)),
    "negative": Conditioning(("",)),
}
_GREY = Latent(plain((128, 128, 128), (16, 16)).pictures)


async def test_sampling_without_denoise_leaves_the_latent() -> None:
    stage = Stage()
    same = await value(
        "KSampler", stage, **_ASKED, seed=1, steps=4, latent_image=_GREY, denoise=0.0
    )
    assert same == _GREY
    assert stage.told == []


async def test_sampling_with_little_denoise_stays_near_the_latent() -> None:
    near = await value("KSampler", **_ASKED, seed=1, steps=1, latent_image=_GREY, denoise=0.1)
    assert all(abs(level - 128) <= 13 for level in near.pictures[0].tobytes())


async def test_samplers_paint_where_the_noise_mask_is_white() -> None:
    left_half = Image.new("L", (16, 16), 0)
    left_half.paste(255, (0, 0, 8, 16))
    masked = await value("SetLatentNoiseMask", samples=_GREY, mask=Masks((left_half,)))
    kept = _GREY.pictures[0]
    sampled = await value("KSampler", **_ASKED, seed=1, steps=1, latent_image=masked, denoise=1.0)
    [picture] = sampled.pictures
    across, down = picture.size
    left, right = (0, 0, across // 2, down), (across // 2, 0, across, down)
    assert picture.crop(left).tobytes() != kept.crop(left).tobytes()
    assert picture.crop(right).tobytes() == kept.crop(right).tobytes()
    assert sampled.masks == (left_half,)


async def test_a_sampler_in_two_halves_paints_what_one_paints() -> None:
    whole = await value("KSampler", **_ASKED, seed=5, steps=4, latent_image=_GREY, denoise=1.0)
    half = await value(
        "KSamplerAdvanced",
        **_ASKED,
        add_noise="enable",
        noise_seed=5,
        steps=4,
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
        latent_image=_GREY,
    )
    assert half.noise == 0.5
    stage = Stage()
    rest = await value(
        "KSamplerAdvanced",
        stage,
        **_ASKED,
        add_noise="disable",
        noise_seed=0,
        steps=4,
        start_at_step=2,
        end_at_step=10000,
        return_with_leftover_noise="disable",
        latent_image=half,
    )
    assert [reported for reported in stage.told if isinstance(reported, tuple)] == [(1, 2), (2, 2)]
    assert rest.noise == 0
    assert rest.pictures[0].tobytes() == whole.pictures[0].tobytes()


async def test_leftover_noise_is_seen_when_decoded() -> None:
    noisy = Latent(_GREY.pictures, 0.5, 1)
    (images,) = (await output("VAEDecode", samples=noisy, vae=Weights("VAE", ("v",)))).values
    assert images.pictures[0].tobytes() != _GREY.pictures[0].tobytes()


async def test_the_custom_sampler_takes_its_parts_from_nodes() -> None:
    stage = Stage()
    guider = await value("BasicGuider", model=_MODEL, conditioning=Conditioning(("a hill",)))
    sigmas = await value("BasicScheduler", model=_MODEL, scheduler="simple", steps=2, denoise=1.0)
    latent, clean = (
        await output(
            "SamplerCustomAdvanced",
            stage,
            noise=await value("RandomNoise", noise_seed=7),
            guider=guider,
            sampler=await value("KSamplerSelect", sampler_name="euler"),
            sigmas=sigmas,
            latent_image=_GREY,
        )
    ).values
    assert stage.told == ["image/jpeg", (1, 2), "image/jpeg", (2, 2)]
    assert latent.pictures == clean.pictures
    other = await value(
        "CFGGuider",
        model=_MODEL,
        positive=Conditioning(("a hill",)),
        negative=Conditioning(("",)),
        cfg=3.0,
    )
    assert str(other.model) == "MODEL(m, cfg 3)"


async def test_latents_have_sizes_in_whole_eighths() -> None:
    empty = await value("EmptyLatentImage", width=100, height=60, batch_size=2)
    assert [picture.size for picture in empty.pictures] == [(96, 56)] * 2
    larger = await value("LatentUpscaleBy", samples=empty, upscale_method="bislerp", scale_by=1.5)
    assert larger.pictures[0].size == (144, 80)
    fixed = await value(
        "LatentUpscale",
        samples=empty,
        upscale_method="area",
        width=0,
        height=112,
        crop="disabled",
    )
    assert fixed.pictures[0].size == (192, 112)
    assert len((await value("RepeatLatentBatch", samples=empty, amount=2)).pictures) == 4


async def test_pictures_go_into_latents_and_back() -> None:
    vae = Weights("VAE", ("v",))
    latent = await value("VAEEncode", pixels=plain(size=(20, 12)), vae=vae)
    assert latent.pictures[0].size == (16, 8)
    assert (await value("VAEDecode", samples=latent, vae=vae)).pictures == latent.pictures
    hollow = await value(
        "VAEEncodeForInpaint",
        pixels=plain(size=(16, 16)),
        vae=vae,
        mask=mask(size=(16, 16)),
        grow_mask_by=6,
    )
    assert hollow.pictures[0].getpixel((0, 0)) == (128, 128, 128)


async def test_models_are_the_names_of_their_parts() -> None:
    model, clip, vae = (await output("CheckpointLoaderSimple", ckpt_name="c")).values
    assert [str(part) for part in (model, clip, vae)] == ["MODEL(c)", "CLIP(c)", "VAE(c)"]
    tuned, _ = (
        await output(
            "LoraLoader",
            model=model,
            clip=clip,
            lora_name="l",
            strength_model=0.8,
            strength_clip=0.0,
        )
    ).values
    assert str(tuned) == "MODEL(c, l*0.8)"
    assert str(await value("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)) == (
        "CLIP(c, layer -2)"
    )


async def test_texts_are_encoded_joined_and_zeroed() -> None:
    clip = Weights("CLIP", ("c",))
    one, two = [await value("CLIPTextEncode", text=text, clip=clip) for text in "ab"]
    joined = await value("ConditioningCombine", conditioning_1=one, conditioning_2=two)
    assert joined.texts == ("a", "b")
    assert (
        await value("ConditioningConcat", conditioning_to=one, conditioning_from=two)
    ).texts == ("a b",)
    assert (await value("ConditioningZeroOut", conditioning=joined)).texts == ("", "")


async def test_a_text_without_a_clip_fails() -> None:
    with pytest.raises(RuntimeError, match="clip input is invalid"):
        await value("CLIPTextEncode", text="a", clip="nothing")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("s", "s"),
        (5, "5"),
        (True, "True"),
        (None, "None"),
        ([1, {"a": 2}], '[1, {"a": 2}]'),
        (mask(), "Masks(1 x 4x4)"),
    ],
)
async def test_anything_is_previewed_as_text(source: object, text: str) -> None:
    assert (await output("PreviewAny", source=source)).ui == {"text": [text]}


@pytest.mark.parametrize(
    ("kind", "given_"),
    [
        ("Int", 2**62),
        ("Float", 0.5),
        ("String", "x"),
        ("StringMultiline", "x\ny"),
        ("Boolean", True),
    ],
)
async def test_a_primitive_hands_on_its_value(kind: str, given_: object) -> None:
    assert await value(f"Primitive{kind}", value=given_) == given_


async def test_strings_are_joined() -> None:
    assert await value("StringConcatenate", string_a="a", string_b="b", delimiter="-") == "a-b"


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


def test_a_video_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        mp4.encode([], (1, 1), 24)


@pytest.mark.parametrize(
    ("name", "extension", "extra"),
    [
        ("SaveAnimatedWEBP", ".webp", {"lossless": True, "quality": 80, "method": "fastest"}),
        ("SaveAnimatedPNG", ".png", {"compress_level": 4}),
    ],
)
async def test_an_animation_is_one_file(name: str, extension: str, extra: dict[str, Any]) -> None:
    stage = Stage()
    moving = Images((plain().pictures[0], plain(BLUE).pictures[0]))
    shown = await output(name, stage, images=moving, filename_prefix="a", fps=5.0, **extra)
    assert shown.ui == {
        "images": [{"filename": f"hash{extension}", "subfolder": "", "type": "output"}],
        "animated": [True],
    }
    assert Image.open(io.BytesIO(stage.saved[0][3])).n_frames == 2  # type: ignore[attr-defined]


async def test_a_video_of_another_codec_is_seen_as_a_clip_of_its_own() -> None:
    clip = await value("LoadVideo", Stage(v=b"\0\0\0\x18ftypmp42"), file="v")
    assert isinstance(clip, Video)
    assert len(clip.pictures) > 1


async def test_sound_is_saved_as_flac() -> None:
    stage = Stage()
    audio = await value("EmptyAudio", duration=0.5, sample_rate=8000, channels=2)
    assert (audio.frames, audio.rate, audio.channels) == (4000, 8000, 2)
    shown = await output("SaveAudio", stage, audio=audio, filename_prefix="audio/x")
    assert shown.ui == {"audio": [{"filename": "hash.flac", "subfolder": "", "type": "output"}]}
    await output("PreviewAudio", stage, audio=audio)
    assert [(extension, kind) for _, extension, kind, _ in stage.saved] == [
        (".flac", "output"),
        (".flac", "temp"),
    ]


def test_flac_has_the_header_and_the_frames_of_the_format() -> None:
    data = sound.flac(Audio(struct.pack("<3h", 1, -2, 3), 44100, 1))
    assert data[:8] == b"fLaC\x80\x00\x00\x22"
    assert data[42:44] == b"\xff\xf8"
    assert data[-8:-2] == b"\x00\x01\xff\xfe\x00\x03"


async def test_a_wav_file_is_loaded_as_it_is() -> None:
    tone, buffer = sound.tone(440, 0.1), io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((tone.channels, 2, 44100, 0, "NONE", ""))
        file.writeframes(tone.samples)
    assert await value("LoadAudio", Stage(a=buffer.getvalue()), audio="a") == tone


async def test_another_sound_file_is_loaded_as_a_tone_of_its_own() -> None:
    low, high = [await value("LoadAudio", Stage(a=data), audio="a") for data in (b"ID3a", b"ID3b")]
    assert low != high
    assert low.frames == 44100


async def test_a_sound_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the simulator makes"):
        await value("EmptyAudio", duration=1e9, sample_rate=44100, channels=2)


@pytest.mark.parametrize("ratio", ["1", "a:b", "1:0", "9:1"])
async def test_an_odd_aspect_ratio_fails(ratio: str) -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        await value(
            "FluxProUltraImageNode",
            prompt="x",
            seed=0,
            aspect_ratio=ratio,
            api_key_comfy_org="k",
            auth_token_comfy_org=None,
        )


@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError", "KeyError", "MemoryError"])
async def test_the_raising_node_raises_the_given_error(kind: str) -> None:
    with pytest.raises(Exception, match="no way") as caught:
        await value("SimulatorRaise", kind=kind, message="no way")
    assert type(caught.value).__name__ == kind
