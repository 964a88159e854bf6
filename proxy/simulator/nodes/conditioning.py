"""Nodes that say what a picture is to show."""

from __future__ import annotations

from proxy.simulator.nodes.specs import NEW_STYLE, integer, link, maker, number, string
from proxy.simulator.nodes.values import Conditioning, Images, Weights


def _encode(text: str, clip: Weights) -> tuple[Conditioning]:
    _require_clip(clip)
    return (Conditioning((text,)),)


def _encode_sdxl(clip: Weights, text_g: str, text_l: str, **_sizes: int) -> tuple[Conditioning]:
    _require_clip(clip)
    return (Conditioning((text_g,) if text_g == text_l else (text_g, text_l)),)


def _require_clip(clip: Weights) -> None:
    if not isinstance(clip, Weights):
        raise RuntimeError("ERROR: clip input is invalid: None")


def _combine(conditioning_1: Conditioning, conditioning_2: Conditioning) -> tuple[Conditioning]:
    return (Conditioning(conditioning_1.texts + conditioning_2.texts),)


def _concat(conditioning_to: Conditioning, conditioning_from: Conditioning) -> tuple[Conditioning]:
    return (Conditioning((" ".join(conditioning_to.texts + conditioning_from.texts),)),)


def _average(
    conditioning_to: Conditioning,
    conditioning_from: Conditioning,
    conditioning_to_strength: float,
) -> tuple[Conditioning]:
    share = f"[{conditioning_to_strength:g}]"
    return (Conditioning((*conditioning_to.texts, share, *conditioning_from.texts)),)


def _zero_out(conditioning: Conditioning) -> tuple[Conditioning]:
    return (Conditioning(("",) * len(conditioning.texts)),)


def _guidance(conditioning: Conditioning, guidance: float) -> tuple[Conditioning]:
    return (Conditioning((*conditioning.texts, f"[guidance {guidance:g}]")),)


def _control(
    positive: Conditioning,
    negative: Conditioning,
    control_net: Weights,
    image: Images,
    strength: float,
    start_percent: float,
    end_percent: float,
    vae: Weights | None = None,
) -> tuple[Conditioning, Conditioning]:
    hint = f"[{control_net} {image} {strength:g} {start_percent:g} {end_percent:g} {vae}]"
    return Conditioning((*positive.texts, hint)), Conditioning((*negative.texts, hint))


_node = maker(category="conditioning", outputs=("CONDITIONING",))
_SIDE = integer(1024, 0, 16384)
_TEXT = string(multiline=True, dynamicPrompts=True, tooltip="What to show.")
_SHARE = number(1.0, 0.0, 1.0, 0.01)

NODES = [
    _node(
        "CLIPTextEncode",
        _encode,
        {"text": _TEXT, "clip": link("CLIP", "The model that reads the text.")},
        display_name="CLIP Text Encode (Prompt)",
        info={
            "output_tooltips": ["What the picture is to show."],
            "search_aliases": ["text", "prompt", "text prompt", "positive prompt"],
        },
    ),
    _node(
        "CLIPTextEncodeSDXL",
        _encode_sdxl,
        {
            "clip": link("CLIP"),
            "width": _SIDE,
            "height": _SIDE,
            "crop_w": integer(0, 0, 16384),
            "crop_h": integer(0, 0, 16384),
            "target_width": _SIDE,
            "target_height": _SIDE,
            "text_g": _TEXT,
            "text_l": _TEXT,
        },
        category="advanced/conditioning",
        python_module="comfy_extras.nodes_clip_sdxl",
        info=NEW_STYLE,
    ),
    _node(
        "ConditioningCombine",
        _combine,
        {"conditioning_1": link("CONDITIONING"), "conditioning_2": link("CONDITIONING")},
        display_name="Conditioning (Combine)",
    ),
    _node(
        "ConditioningConcat",
        _concat,
        {"conditioning_to": link("CONDITIONING"), "conditioning_from": link("CONDITIONING")},
        display_name="Conditioning (Concat)",
    ),
    _node(
        "ConditioningAverage",
        _average,
        {
            "conditioning_to": link("CONDITIONING"),
            "conditioning_from": link("CONDITIONING"),
            "conditioning_to_strength": _SHARE,
        },
        display_name="Conditioning (Average)",
    ),
    _node(
        "ConditioningZeroOut",
        _zero_out,
        {"conditioning": link("CONDITIONING")},
        category="advanced/conditioning",
    ),
    _node(
        "FluxGuidance",
        _guidance,
        {"conditioning": link("CONDITIONING"), "guidance": number(3.5, 0.0, 100.0, 0.1)},
        category="advanced/conditioning/flux",
        python_module="comfy_extras.nodes_flux",
        info=NEW_STYLE,
    ),
    _node(
        "ControlNetApplyAdvanced",
        _control,
        {
            "positive": link("CONDITIONING"),
            "negative": link("CONDITIONING"),
            "control_net": link("CONTROL_NET"),
            "image": link("IMAGE"),
            "strength": number(1.0, 0.0, 10.0, 0.01),
            "start_percent": number(0.0, 0.0, 1.0, 0.001),
            "end_percent": number(1.0, 0.0, 1.0, 0.001),
        },
        optional={"vae": link("VAE")},
        outputs=("CONDITIONING", "CONDITIONING"),
        output_names=("positive", "negative"),
        display_name="Apply ControlNet",
        category="conditioning/controlnet",
    ),
]
