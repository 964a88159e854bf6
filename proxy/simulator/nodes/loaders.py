"""Nodes that load models. Nothing is loaded: a model is the names of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.simulator.nodes.models import MODEL_FILES
from proxy.simulator.nodes.node_class import InputSpec, NodeClass
from proxy.simulator.nodes.specs import NEW_STYLE, combo, link, number, pure
from proxy.simulator.nodes.values import Weights


def _checkpoint(ckpt_name: str) -> tuple[Weights, ...]:
    return tuple(Weights(kind, (ckpt_name,)) for kind in ("MODEL", "CLIP", "VAE"))


def _unet(unet_name: str, weight_dtype: str) -> tuple[Weights]:
    return (Weights("MODEL", (unet_name, weight_dtype)),)


def _clip(clip_name: str, type: str, device: str = "default") -> tuple[Weights]:  # noqa: A002
    return (Weights("CLIP", (clip_name, type, device)),)


def _dual_clip(
    clip_name1: str,
    clip_name2: str,
    type: str,  # noqa: A002
    device: str = "default",
) -> tuple[Weights]:
    return (Weights("CLIP", (clip_name1, clip_name2, type, device)),)


def _vae(vae_name: str) -> tuple[Weights]:
    return (Weights("VAE", (vae_name,)),)


def _lora(
    model: Weights, clip: Weights, lora_name: str, strength_model: float, strength_clip: float
) -> tuple[Weights, Weights]:
    return (
        model.with_name(f"{lora_name}*{strength_model:g}") if strength_model else model,
        clip.with_name(f"{lora_name}*{strength_clip:g}") if strength_clip else clip,
    )


def _model_lora(model: Weights, lora_name: str, strength_model: float) -> tuple[Weights]:
    return (model.with_name(f"{lora_name}*{strength_model:g}") if strength_model else model,)


def _control_net(control_net_name: str) -> tuple[Weights]:
    return (Weights("CONTROL_NET", (control_net_name,)),)


def _clip_vision(clip_name: str) -> tuple[Weights]:
    return (Weights("CLIP_VISION", (clip_name,)),)


def _differential(model: Weights, strength: float = 1.0) -> tuple[Weights]:
    return (model.with_name(f"differential {strength:g}"),)


def _shifted(model: Weights, shift: float) -> tuple[Weights]:
    return (model.with_name(f"shift {shift:g}"),)


def _last_layer(clip: Weights, stop_at_clip_layer: int) -> tuple[Weights]:
    return (clip.with_name(f"layer {stop_at_clip_layer}"),)


def _loader(
    name: str, run: Any, required: Mapping[str, InputSpec], outputs: tuple[str, ...], **fields: Any
) -> NodeClass:
    fields = {"category": "loaders", **fields}
    return NodeClass(name, pure(run), required=required, outputs=outputs, **fields)


_STRENGTH = number(1.0, -100.0, 100.0, 0.01)
_DEVICE: dict[str, InputSpec] = {"device": combo(["default", "cpu"], advanced=True)}
_CLIP_TYPES = ["stable_diffusion", "sd3", "wan", "hidream", "qwen_image", "lumina2", "flux2"]
_DUAL_TYPES = ["sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"]

NODES = [
    _loader(
        "CheckpointLoaderSimple",
        _checkpoint,
        {"ckpt_name": combo(MODEL_FILES["checkpoints"], tooltip="The checkpoint to load.")},
        ("MODEL", "CLIP", "VAE"),
        display_name="Load Checkpoint",
        info={
            "output_tooltips": ["The diffusion model.", "The text encoder.", "The picture coder."],
            "search_aliases": ["load model", "checkpoint", "model loader"],
        },
    ),
    _loader(
        "UNETLoader",
        _unet,
        {
            "unet_name": combo(MODEL_FILES["diffusion_models"]),
            "weight_dtype": combo(["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]),
        },
        ("MODEL",),
        display_name="Load Diffusion Model",
        category="advanced/loaders",
    ),
    _loader(
        "CLIPLoader",
        _clip,
        {"clip_name": combo(MODEL_FILES["text_encoders"]), "type": combo(_CLIP_TYPES)},
        ("CLIP",),
        optional=_DEVICE,
        display_name="Load CLIP",
        category="advanced/loaders",
    ),
    _loader(
        "DualCLIPLoader",
        _dual_clip,
        {
            "clip_name1": combo(MODEL_FILES["text_encoders"]),
            "clip_name2": combo(MODEL_FILES["text_encoders"]),
            "type": combo(_DUAL_TYPES),
        },
        ("CLIP",),
        optional=_DEVICE,
        category="advanced/loaders",
    ),
    _loader(
        "VAELoader",
        _vae,
        {"vae_name": combo([*MODEL_FILES["vae"], "pixel_space"])},
        ("VAE",),
        display_name="Load VAE",
    ),
    _loader(
        "LoraLoader",
        _lora,
        {
            "model": link("MODEL", "The model to change."),
            "clip": link("CLIP", "The text encoder to change."),
            "lora_name": combo(MODEL_FILES["loras"], tooltip="The LoRA to apply."),
            "strength_model": _STRENGTH,
            "strength_clip": _STRENGTH,
        },
        ("MODEL", "CLIP"),
        display_name="Load LoRA",
    ),
    _loader(
        "LoraLoaderModelOnly",
        _model_lora,
        {
            "model": link("MODEL"),
            "lora_name": combo(MODEL_FILES["loras"]),
            "strength_model": _STRENGTH,
        },
        ("MODEL",),
    ),
    _loader(
        "ControlNetLoader",
        _control_net,
        {"control_net_name": combo(MODEL_FILES["controlnet"])},
        ("CONTROL_NET",),
        display_name="Load ControlNet Model",
    ),
    _loader(
        "CLIPVisionLoader",
        _clip_vision,
        {"clip_name": combo(MODEL_FILES["clip_vision"])},
        ("CLIP_VISION",),
        display_name="Load CLIP Vision",
    ),
    _loader(
        "DifferentialDiffusion",
        _differential,
        {"model": link("MODEL")},
        ("MODEL",),
        optional={"strength": number(1.0, 0.0, 1.0, 0.01)},
        category="_for_testing",
        python_module="comfy_extras.nodes_differential_diffusion",
        info=NEW_STYLE,
    ),
    _loader(
        "ModelSamplingSD3",
        _shifted,
        {"model": link("MODEL"), "shift": number(3.0, 0.0, 100.0, 0.01)},
        ("MODEL",),
        category="advanced/model",
        python_module="comfy_extras.nodes_model_advanced",
    ),
    _loader(
        "ModelSamplingAuraFlow",
        _shifted,
        {"model": link("MODEL"), "shift": number(1.73, 0.0, 100.0, 0.01)},
        ("MODEL",),
        category="advanced/model",
        python_module="comfy_extras.nodes_model_advanced",
        info=NEW_STYLE,
    ),
    _loader(
        "CLIPSetLastLayer",
        _last_layer,
        {
            "clip": link("CLIP"),
            "stop_at_clip_layer": [
                "INT",
                {"default": -1, "min": -24, "max": -1, "step": 1, "advanced": True},
            ],
        },
        ("CLIP",),
        display_name="CLIP Set Last Layer",
        category="conditioning",
    ),
]
