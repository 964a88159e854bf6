"""Nodes of packs that desktop clients require of a cloud: ControlNet preprocessors, IP-Adapter and
inpainting (comfyui_controlnet_aux, ComfyUI_IPAdapter_plus, comfyui-inpaint-nodes)."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageFilter, ImageOps, ImageStat

from proxy.simulator.nodes.latents import encoded
from proxy.simulator.nodes.models import MODEL_FILES
from proxy.simulator.nodes.specs import boolean, combo, integer, link, maker, number, seed
from proxy.simulator.nodes.values import Conditioning, Images, Latent, Masks, Weights

_GREY = (128, 128, 128)
_MAX_STEPS = 128


def _spread(mask: Masks, pixels: int) -> list[Image.Image]:
    """Return the masks, larger by some pixels; smaller by them if they are negative."""
    grown = list(mask.pictures)
    for _ in range(min(abs(pixels), _MAX_STEPS)):
        way = ImageFilter.MaxFilter(3) if pixels > 0 else ImageFilter.MinFilter(3)
        grown = [picture.filter(way) for picture in grown]
    return grown


def _softened(pictures: list[Image.Image], blur: int, blur_type: str) -> tuple[Masks]:
    way = ImageFilter.BoxBlur if blur_type == "linear" else ImageFilter.GaussianBlur
    return (
        Masks(tuple(picture.filter(way(blur / 2)) if blur else picture for picture in pictures)),
    )


def _expand(mask: Masks, grow: int, blur: int, blur_type: str = "gaussian") -> tuple[Masks]:
    return _softened(_spread(mask, grow), blur, blur_type)


def _shrink(mask: Masks, shrink: int, blur: int, blur_type: str = "gaussian") -> tuple[Masks]:
    return _softened(_spread(mask, -shrink), blur, blur_type)


def _stabilize(mask: Masks, epsilon: float) -> tuple[Masks]:
    low, high = 255 * epsilon, 255 * (1 - epsilon)
    table = [0 if value <= low else 255 if value >= high else value for value in range(256)]
    return (Masks(tuple(picture.point(table) for picture in mask.pictures)),)


def _filled(image: Images, mask: Masks, fill: Any) -> tuple[Images]:
    """Return the pictures with what `fill` makes of them where the masks are white."""
    made = []
    for i, picture in enumerate(image.pictures):
        hole = mask.pictures[i % len(mask.pictures)].resize(picture.size)
        made.append(Image.composite(fill(picture), picture, hole))
    return (Images(tuple(made)),)


def _masked_fill(image: Images, mask: Masks, fill: str, falloff: int) -> tuple[Images]:
    del falloff
    if fill == "neutral":
        return _filled(image, mask, lambda picture: Image.new(picture.mode, picture.size, _GREY))
    return _filled(image, mask, lambda picture: picture.filter(ImageFilter.BoxBlur(32)))


def _masked_blur(image: Images, mask: Masks, blur: int, falloff: int) -> tuple[Images]:
    del falloff
    return _filled(image, mask, lambda picture: picture.filter(ImageFilter.GaussianBlur(blur / 3)))


def _with_model(
    inpaint_model: Weights, image: Images, mask: Masks, seed: int, **_: Any
) -> tuple[Images]:
    del inpaint_model, seed
    return _filled(image, mask, lambda picture: picture.filter(ImageFilter.BoxBlur(64)))


def _patched(model: Weights, patch: Weights, latent: Latent) -> tuple[Weights]:
    del latent
    return (model.with_name("+".join(patch.names)),)


def _condition(
    positive: Conditioning, negative: Conditioning, vae: Weights, pixels: Images, mask: Masks
) -> tuple[Conditioning, Conditioning, Latent, Latent]:
    (latent,) = encoded(pixels, vae)
    holes = Latent(latent.pictures, masks=mask.pictures)
    return positive, negative, latent, holes


def _match(
    target: Images, reference: Images, strength: float, exclude_mask: Masks | None = None
) -> tuple[Images]:
    """Return the pictures as bright in each colour as the reference is beside the mask."""
    made = []
    for i, picture in enumerate(target.pictures):
        goal = reference.pictures[i % len(reference.pictures)].resize(picture.size)
        where = None
        if exclude_mask is not None:
            excluded = exclude_mask.pictures[i % len(exclude_mask.pictures)]
            where = ImageOps.invert(excluded.resize(picture.size)).point(
                lambda level: level and 255
            )
        if where is not None and where.getextrema() == (0, 0):
            where = None
        means = ImageStat.Stat(picture, where).mean, ImageStat.Stat(goal, where).mean
        shifts = [strength * (wanted - is_) for is_, wanted in zip(*means, strict=True)]
        bands = [
            band.point(lambda level, by=by: level + by)
            for band, by in zip(picture.split(), shifts, strict=True)
        ]
        made.append(Image.merge(picture.mode, bands))
    return (Images(tuple(made)),)


def _preprocessed(image: Images, **_: Any) -> tuple[Images]:
    return (Images(tuple(picture.convert("L").convert("RGB") for picture in image.pictures)),)


def _hollow(image: Images, mask: Masks, **_: Any) -> tuple[Images]:
    return _filled(image, mask, lambda picture: Image.new(picture.mode, picture.size))


def _named(kind: str) -> Any:
    return lambda **names: (Weights(kind, tuple(map(str, names.values()))),)


def _adapted(model: Weights, ipadapter: Weights, **_: Any) -> tuple[Weights]:
    return (model.with_name("+".join(ipadapter.names)),)


_inpaint = maker(
    category="inpaint",
    outputs=("IMAGE",),
    python_module="custom_nodes.comfyui-inpaint-nodes",
)
_preprocessor = maker(outputs=("IMAGE",), python_module="custom_nodes.comfyui_controlnet_aux")
_adapter = maker(python_module="custom_nodes.ComfyUI_IPAdapter_plus")

_MASK, _IMAGE, _MODEL = link("MASK"), link("IMAGE"), link("MODEL")
_PIXELS = integer(16, 0, 8096)
_BLUR_TYPES = combo(["gaussian", "linear"])
_RESOLUTION = integer(512, 64, 16384, step=64)

NODES = [
    _inpaint(
        "INPAINT_LoadFooocusInpaint",
        _named("INPAINT_PATCH"),
        {"head": combo(MODEL_FILES["inpaint"]), "patch": combo(MODEL_FILES["inpaint"])},
        outputs=("INPAINT_PATCH",),
    ),
    _inpaint(
        "INPAINT_ApplyFooocusInpaint",
        _patched,
        {"model": _MODEL, "patch": link("INPAINT_PATCH"), "latent": link("LATENT")},
        outputs=("MODEL",),
    ),
    _inpaint(
        "INPAINT_VAEEncodeInpaintConditioning",
        _condition,
        {
            "positive": link("CONDITIONING"),
            "negative": link("CONDITIONING"),
            "vae": link("VAE"),
            "pixels": _IMAGE,
            "mask": _MASK,
        },
        outputs=("CONDITIONING", "CONDITIONING", "LATENT", "LATENT"),
        output_names=("positive", "negative", "latent_inpaint", "latent_samples"),
    ),
    _inpaint(
        "INPAINT_LoadInpaintModel",
        _named("INPAINT_MODEL"),
        {"model_name": combo(MODEL_FILES["inpaint"])},
        outputs=("INPAINT_MODEL",),
    ),
    _inpaint(
        "INPAINT_InpaintWithModel",
        _with_model,
        {
            "inpaint_model": link("INPAINT_MODEL"),
            "image": _IMAGE,
            "mask": _MASK,
            "seed": seed(),
        },
        optional={"optional_upscale_model": link("UPSCALE_MODEL")},
    ),
    _inpaint(
        "INPAINT_MaskedFill",
        _masked_fill,
        {
            "image": _IMAGE,
            "mask": _MASK,
            "fill": combo(["neutral", "telea", "navier-stokes"]),
            "falloff": integer(0, 0, 8191),
        },
    ),
    _inpaint(
        "INPAINT_MaskedBlur",
        _masked_blur,
        {
            "image": _IMAGE,
            "mask": _MASK,
            "blur": integer(255, 3, 8191),
            "falloff": integer(0, 0, 8191),
        },
    ),
    _inpaint(
        "INPAINT_ExpandMask",
        _expand,
        {"mask": _MASK, "grow": _PIXELS, "blur": _PIXELS},
        outputs=("MASK",),
        optional={"blur_type": _BLUR_TYPES},
    ),
    _inpaint(
        "INPAINT_ShrinkMask",
        _shrink,
        {"mask": _MASK, "shrink": _PIXELS, "blur": _PIXELS},
        outputs=("MASK",),
        optional={"blur_type": _BLUR_TYPES},
    ),
    _inpaint(
        "INPAINT_StabilizeMask",
        _stabilize,
        {"mask": _MASK, "epsilon": number(0.01, 0.0, 1.0, 0.001)},
        outputs=("MASK",),
    ),
    _inpaint(
        "INPAINT_ColorMatch",
        _match,
        {"target": _IMAGE, "reference": _IMAGE, "strength": number(1.0, 0.0, 1.0, 0.01)},
        optional={"exclude_mask": _MASK},
    ),
    _preprocessor(
        "InpaintPreprocessor",
        _hollow,
        {"image": _IMAGE, "mask": _MASK},
        optional={"black_pixel_for_xinsir_cn": boolean(default=False)},
        category="ControlNet Preprocessors/others",
    ),
    _preprocessor(
        "DepthAnythingV2Preprocessor",
        _preprocessed,
        {"image": _IMAGE},
        optional={
            "ckpt_name": combo(["depth_anything_v2_vitl.pth", "depth_anything_v2_vitb.pth"]),
            "resolution": _RESOLUTION,
        },
        category="ControlNet Preprocessors/Normal and Depth Estimators",
    ),
    _adapter(
        "IPAdapterModelLoader",
        _named("IPADAPTER"),
        {"ipadapter_file": combo(MODEL_FILES["ipadapter"])},
        outputs=("IPADAPTER",),
        category="ipadapter/loaders",
    ),
    _adapter(
        "IPAdapter",
        _adapted,
        {
            "model": _MODEL,
            "ipadapter": link("IPADAPTER"),
            "image": _IMAGE,
            "weight": number(1.0, -1.0, 3.0, 0.05),
            "start_at": number(0.0, 0.0, 1.0, 0.001),
            "end_at": number(1.0, 0.0, 1.0, 0.001),
            "weight_type": combo(["standard", "prompt is more important", "style transfer"]),
        },
        outputs=("MODEL",),
        optional={"attn_mask": _MASK, "clip_vision": link("CLIP_VISION")},
        category="ipadapter",
    ),
]
