"""The KSampler family: pictures come out of noise, step by step, with a preview at each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from PIL import Image

from proxy.simulator.nodes.encoding import fitted, jpeg
from proxy.simulator.nodes.latents import decoded
from proxy.simulator.nodes.models import SAMPLERS, SCHEDULERS
from proxy.simulator.nodes.node_class import Context, InputSpec, NodeClass, Output
from proxy.simulator.nodes.painting import noise, paint
from proxy.simulator.nodes.specs import (
    MAX_SEED,
    NEW_STYLE,
    combo,
    integer,
    link,
    maker,
    new_combo,
    number,
    seed,
)
from proxy.simulator.nodes.values import Conditioning, Latent, Weights


@dataclass(frozen=True, slots=True)
class Guider:
    """A GUIDER: the model and what it is asked for."""

    model: Weights
    positive: Conditioning
    negative: Conditioning


@dataclass(frozen=True, slots=True)
class Sigmas:
    """A SIGMAS: how many steps, and how much of the picture is painted again."""

    steps: int
    denoise: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Which steps of how many are taken, and whether the noise of the others stays."""

    steps: int
    start: int
    end: int
    leftover: bool = False


async def sample(
    context: Context, latent: Latent, guider: Guider, seed: int, denoise: float, stretch: Stretch
) -> Latent:
    """Paint what the guider asks for over a latent; `denoise` is the share that is new."""
    grains = latent.seed if latent.noise else seed
    goals = await asyncio.to_thread(_goals, latent, guider, grains, denoise)
    small = fitted(goals[0])
    cloud = await asyncio.to_thread(noise, grains, small.size)
    taken = stretch.end - stretch.start
    for step in range(1, taken + 1):
        left = 1 - (stretch.start + step) / stretch.steps
        preview = await asyncio.to_thread(_preview, small, cloud, left)
        await context.step()
        context.picture(preview)
        context.progress(step, taken)
    left = max(0.0, 1 - stretch.end / stretch.steps) if stretch.leftover else 0.0
    return Latent(goals, left, grains, latent.masks)


def _goals(latent: Latent, guider: Guider, seed: int, denoise: float) -> tuple[Image.Image, ...]:
    subject = " ".join(guider.positive.texts)
    against = " ".join(guider.negative.texts)
    goals = []
    for i, picture in enumerate(latent.pictures):
        painted = paint(subject, f"{seed + i}\n{against}\n{guider.model}", picture.size)
        if denoise < 1:
            painted = Image.blend(picture, painted, denoise)
        if latent.masks:
            mask = latent.masks[i % len(latent.masks)].resize(picture.size)
            painted = Image.composite(painted, picture, mask)
        goals.append(painted)
    return tuple(goals)


def _preview(goal: Image.Image, cloud: Image.Image, left: float) -> bytes:
    return jpeg(Image.blend(goal, cloud, left) if left > 0 else goal)


async def _k_sampler(inputs: dict[str, Any], context: Context) -> Output:
    guider = Guider(inputs["model"], inputs["positive"], inputs["negative"])
    steps, denoise = inputs["steps"], inputs["denoise"]
    latent = inputs["latent_image"]
    if denoise <= 0:
        return Output((latent,))
    stretch = Stretch(steps, 0, steps)
    return Output((await sample(context, latent, guider, inputs["seed"], denoise, stretch),))


async def _k_sampler_advanced(inputs: dict[str, Any], context: Context) -> Output:
    guider = Guider(inputs["model"], inputs["positive"], inputs["negative"])
    steps, latent = inputs["steps"], inputs["latent_image"]
    end = min(steps, inputs["end_at_step"])
    start = inputs["start_at_step"]
    if start >= end:
        return Output((latent,))
    stretch = Stretch(steps, start, end, inputs["return_with_leftover_noise"] == "enable")
    denoise = 1.0 if start == 0 or latent.noise else 1 - start / steps
    return Output((await sample(context, latent, guider, inputs["noise_seed"], denoise, stretch),))


async def _sampler_custom_advanced(inputs: dict[str, Any], context: Context) -> Output:
    sigmas = inputs["sigmas"]
    latent = inputs["latent_image"]
    if sigmas.steps:
        stretch = Stretch(sigmas.steps, 0, sigmas.steps)
        latent = await sample(
            context, latent, inputs["guider"], inputs["noise"], sigmas.denoise, stretch
        )
    return Output((latent, Latent(decoded(latent).pictures)))


def _select(sampler_name: str) -> tuple[str]:
    return (sampler_name,)


def _noise(noise_seed: int) -> tuple[int]:
    return (noise_seed,)


def _schedule(
    model: Weights,
    scheduler: str,
    steps: int,
    denoise: float,
) -> tuple[Sigmas]:
    if not isinstance(model, Weights):
        raise AttributeError(f"{type(model).__name__!r} object has no attribute 'get_model_object'")
    return (Sigmas(steps if denoise > 0 and scheduler else 0, denoise),)


def _split(sigmas: Sigmas, step: int) -> tuple[Sigmas, Sigmas]:
    first = min(step, sigmas.steps)
    rest = sigmas.steps - first
    left = sigmas.denoise * rest / max(sigmas.steps, 1)
    return Sigmas(first, sigmas.denoise), Sigmas(rest, left)


def _basic_guider(model: Weights, conditioning: Conditioning) -> tuple[Guider]:
    return (Guider(model, conditioning, Conditioning(())),)


def _cfg_guider(
    model: Weights,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
) -> tuple[Guider]:
    return (Guider(model.with_name(f"cfg {cfg:g}"), positive, negative),)


_STEPS = integer(20, 1, 10000, tooltip="How many steps to take.")
_CFG = number(8.0, 0.0, 100.0, 0.1, round=0.01, tooltip="How closely to follow the text.")
_DENOISE = number(1.0, 0.0, 1.0, 0.01, tooltip="How much of the picture is new.")
_SWITCH = combo(["enable", "disable"])
_ASKED: dict[str, InputSpec] = {
    "positive": link("CONDITIONING", "What to show."),
    "negative": link("CONDITIONING", "What to leave out."),
    "latent_image": link("LATENT", "Where to begin."),
}
_CUSTOM: dict[str, Any] = {"python_module": "comfy_extras.nodes_custom_sampler", "info": NEW_STYLE}
_custom = maker(**_CUSTOM)

NODES = [
    NodeClass(
        "KSampler",
        _k_sampler,
        required={
            "model": link("MODEL", "The model that paints."),
            "seed": seed(),
            "steps": _STEPS,
            "cfg": _CFG,
            "sampler_name": combo(SAMPLERS),
            "scheduler": combo(SCHEDULERS),
            **_ASKED,
            "denoise": _DENOISE,
        },
        outputs=("LATENT",),
        category="sampling",
        description="The simulator paints a landscape that follows from the seed and the texts.",
        info={
            "output_tooltips": ["The painted latent."],
            "search_aliases": ["sampler", "sample", "generate", "denoise", "diffuse", "txt2img"],
        },
    ),
    NodeClass(
        "KSamplerAdvanced",
        _k_sampler_advanced,
        required={
            "model": link("MODEL"),
            "add_noise": _SWITCH,
            "noise_seed": integer(0, 0, MAX_SEED, control_after_generate=True),
            "steps": _STEPS,
            "cfg": _CFG,
            "sampler_name": combo(SAMPLERS),
            "scheduler": combo(SCHEDULERS),
            **_ASKED,
            "start_at_step": integer(0, 0, 10000),
            "end_at_step": integer(10000, 0, 10000),
            "return_with_leftover_noise": combo(["disable", "enable"]),
        },
        outputs=("LATENT",),
        display_name="KSampler (Advanced)",
        category="sampling",
    ),
    _custom(
        "KSamplerSelect",
        _select,
        {"sampler_name": new_combo(SAMPLERS)},
        outputs=("SAMPLER",),
        category="sampling/custom_sampling/samplers",
    ),
    _custom(
        "RandomNoise",
        _noise,
        {"noise_seed": integer(0, 0, MAX_SEED, control_after_generate=True)},
        outputs=("NOISE",),
        category="sampling/custom_sampling/noise",
    ),
    _custom(
        "BasicScheduler",
        _schedule,
        {
            "model": link("MODEL"),
            "scheduler": new_combo(SCHEDULERS),
            "steps": integer(20, 1, 10000),
            "denoise": number(1.0, 0.0, 1.0, 0.01),
        },
        outputs=("SIGMAS",),
        category="sampling/custom_sampling/schedulers",
    ),
    _custom(
        "SplitSigmas",
        _split,
        {"sigmas": link("SIGMAS"), "step": integer(0, 0, 10000)},
        outputs=("SIGMAS", "SIGMAS"),
        output_names=("high_sigmas", "low_sigmas"),
        category="sampling/custom_sampling/sigmas",
    ),
    _custom(
        "BasicGuider",
        _basic_guider,
        {"model": link("MODEL"), "conditioning": link("CONDITIONING")},
        outputs=("GUIDER",),
        category="sampling/custom_sampling/guiders",
    ),
    _custom(
        "CFGGuider",
        _cfg_guider,
        {
            "model": link("MODEL"),
            "positive": link("CONDITIONING"),
            "negative": link("CONDITIONING"),
            "cfg": number(8.0, 0.0, 100.0, 0.1, round=0.01),
        },
        outputs=("GUIDER",),
        category="sampling/custom_sampling/guiders",
    ),
    NodeClass(
        "SamplerCustomAdvanced",
        _sampler_custom_advanced,
        required={
            "noise": link("NOISE"),
            "guider": link("GUIDER"),
            "sampler": link("SAMPLER"),
            "sigmas": link("SIGMAS"),
            "latent_image": link("LATENT"),
        },
        outputs=("LATENT", "LATENT"),
        output_names=("output", "denoised_output"),
        category="sampling/custom_sampling",
        **_CUSTOM,
    ),
]
