"""Nodes between pictures and latents."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from proxy.simulator.nodes.blank import blank
from proxy.simulator.nodes.images import CROPS, resized
from proxy.simulator.nodes.painting import noise
from proxy.simulator.nodes.specs import NEW_STYLE, combo, integer, link, maker, number, side
from proxy.simulator.nodes.values import Images, Latent, Masks, Weights, check_size

_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
_GREY = (128, 128, 128)


def _empty(width: int, height: int, batch_size: int) -> tuple[Latent]:
    check_size(width, height, batch_size)
    return (Latent((blank("RGB", _whole((width, height)), _GREY),) * batch_size),)


def _whole(size: tuple[int, int]) -> tuple[int, int]:
    """Return the nearest smaller size that a latent can have: an eighth of it is whole."""
    return max(8, size[0] // 8 * 8), max(8, size[1] // 8 * 8)


def _upscale(
    samples: Latent, upscale_method: str, width: int, height: int, crop: str
) -> tuple[Latent]:
    if width == 0 and height == 0:
        return (samples,)
    across, down = samples.pictures[0].size
    size = _whole((width or round(across * height / down), height or round(down * width / across)))
    return (replace(samples, pictures=resized(samples.pictures, size, upscale_method, crop)),)


def _upscale_by(samples: Latent, upscale_method: str, scale_by: float) -> tuple[Latent]:
    across, down = samples.pictures[0].size
    size = _whole((round(across * scale_by), round(down * scale_by)))
    return (replace(samples, pictures=resized(samples.pictures, size, upscale_method)),)


def _repeat(samples: Latent, amount: int) -> tuple[Latent]:
    check_size(*samples.pictures[0].size, amount * len(samples.pictures))
    return (replace(samples, pictures=samples.pictures * amount),)


def decoded(latent: Latent) -> Images:
    """Return the pictures of a latent, with the noise that is left in it."""
    if not latent.noise:
        return Images(latent.pictures)
    return Images(
        tuple(
            Image.blend(picture, noise(latent.seed + i, picture.size), latent.noise)
            for i, picture in enumerate(latent.pictures)
        )
    )


def _decode(samples: Latent, vae: Weights, **_tiles: int) -> tuple[Images]:
    _require_vae(vae)
    return (decoded(samples),)


def encoded(pixels: Images, vae: Weights) -> tuple[Latent]:
    """Return the latent of pictures."""
    _require_vae(vae)
    size = _whole(pixels.pictures[0].size)
    return (Latent(tuple(picture.crop((0, 0, *size)) for picture in pixels.pictures)),)


def _encode_for_inpaint(
    pixels: Images,
    vae: Weights,
    mask: Masks,
    grow_mask_by: int,
) -> tuple[Latent]:
    (latent,) = encoded(pixels, vae)
    holes = []
    for i, picture in enumerate(latent.pictures):
        hollow = picture.copy()
        hollow.paste(_GREY, mask=mask.pictures[i % len(mask.pictures)].resize(picture.size))
        holes.append(hollow)
    return (replace(latent, pictures=tuple(holes), masks=mask.pictures),)


def _set_noise_mask(samples: Latent, mask: Masks) -> tuple[Latent]:
    return (replace(samples, masks=mask.pictures),)


def _require_vae(vae: Weights) -> None:
    if not isinstance(vae, Weights):
        raise AttributeError(f"{type(vae).__name__!r} object has no attribute 'decode'")


_node = maker(category="latent", outputs=("LATENT",))
_BATCH = integer(1, 1, 4096, tooltip="How many pictures to make.")

NODES = [
    _node(
        "EmptyLatentImage",
        _empty,
        {"width": side(), "height": side(), "batch_size": _BATCH},
        display_name="Empty Latent Image",
        info={
            "output_tooltips": ["The empty latent."],
            "search_aliases": ["empty", "empty latent", "new latent", "resolution"],
        },
    ),
    _node(
        "EmptySD3LatentImage",
        _empty,
        {"width": side(1024, step=16), "height": side(1024, step=16), "batch_size": _BATCH},
        category="latent/sd3",
        python_module="comfy_extras.nodes_sd3",
        info=NEW_STYLE,
    ),
    _node(
        "LatentUpscale",
        _upscale,
        {
            "samples": link("LATENT"),
            "upscale_method": combo(_METHODS),
            "width": side(low=0),
            "height": side(low=0),
            "crop": combo(CROPS),
        },
        display_name="Upscale Latent",
    ),
    _node(
        "LatentUpscaleBy",
        _upscale_by,
        {
            "samples": link("LATENT"),
            "upscale_method": combo(_METHODS),
            "scale_by": number(1.5, 0.01, 8.0, 0.01),
        },
        display_name="Upscale Latent By",
    ),
    _node(
        "RepeatLatentBatch",
        _repeat,
        {"samples": link("LATENT"), "amount": integer(1, 1, 64)},
        display_name="Repeat Latent Batch",
        category="latent/batch",
    ),
    _node(
        "SetLatentNoiseMask",
        _set_noise_mask,
        {"samples": link("LATENT"), "mask": link("MASK")},
        display_name="Set Latent Noise Mask",
        category="latent/inpaint",
    ),
    _node(
        "VAEDecode",
        _decode,
        {"samples": link("LATENT", "The latent to decode."), "vae": link("VAE")},
        outputs=("IMAGE",),
        display_name="VAE Decode",
        info={
            "output_tooltips": ["The decoded pictures."],
            "search_aliases": ["decode", "decode latent", "latent to image"],
        },
    ),
    _node(
        "VAEDecodeTiled",
        _decode,
        {
            "samples": link("LATENT"),
            "vae": link("VAE"),
            "tile_size": integer(512, 64, 4096, step=32),
            "overlap": integer(64, 0, 4096, step=32),
            "temporal_size": integer(64, 8, 4096, step=4),
            "temporal_overlap": integer(8, 4, 4096, step=4),
        },
        outputs=("IMAGE",),
        display_name="VAE Decode (Tiled)",
        category="_for_testing",
    ),
    _node(
        "VAEEncode",
        encoded,
        {"pixels": link("IMAGE"), "vae": link("VAE")},
        display_name="VAE Encode",
    ),
    _node(
        "VAEEncodeForInpaint",
        _encode_for_inpaint,
        {
            "pixels": link("IMAGE"),
            "vae": link("VAE"),
            "mask": link("MASK"),
            "grow_mask_by": integer(6, 0, 64, step=1),
        },
        display_name="VAE Encode (for Inpainting)",
        category="latent/inpaint",
    ),
]
