"""Graphs in API format that tests submit."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def plain(color: int = 0xFF0000, *, size: int = 64, prefix: str = "ComfyUI") -> dict[str, Any]:
    """A picture of one colour, saved."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def sampled(
    seed: int = 1, *, steps: int = 3, text: str = "a cat", size: int = 64
) -> dict[str, Any]:
    """The workflow that every ComfyUI opens with."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed,
                "steps": steps,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"},
        },
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": size, "height": size, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
        },
    }


def inverted(image: str) -> dict[str, Any]:
    """An uploaded picture, inverted; previewed and saved."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "4": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "inverted"},
        },
    }


def waiting(seconds: float = 30.0) -> dict[str, Any]:
    """A node that waits, then a picture."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "SimulatorWait", "inputs": {"value": ["1", 0], "seconds": seconds}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def raising() -> dict[str, Any]:
    """A node that raises."""
    graph = plain()
    graph["3"] = {
        "class_type": "SimulatorRaise",
        "inputs": {"value": ["1", 0], "kind": "ValueError", "message": "boom"},
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def metadata(picture: bytes) -> dict[str, Any]:
    """What the record of an asset says of a picture."""
    with Image.open(io.BytesIO(picture)) as opened:
        return {"kind": "image", "width": opened.width, "height": opened.height}


def color_of(picture: bytes) -> int:
    """The colour of a picture's first pixel, as `plain` takes it."""
    with Image.open(io.BytesIO(picture)) as opened:
        red, green, blue = opened.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red) << 16 | int(green) << 8 | int(blue)


def png(color: tuple[int, int, int] = (10, 20, 30), size: int = 32) -> bytes:
    """A picture of one colour as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()
