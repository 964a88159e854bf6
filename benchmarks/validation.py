"""How long it takes to check a graph before it is queued.

    python benchmarks/validation.py

The graphs are chains of the usual nodes, against the simulator's catalog with a list of 2,000
models in every loader.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from proxy.catalog.node_classes import Nodes
from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.validation import validate

ROUNDS = 200
MODELS = 2000


def catalog() -> Nodes:
    """The simulator's classes; their lists of models are as long as the cloud's."""
    classes = object_info(standard_nodes())
    for info in classes.values():
        for spec in info["input"].get("required", {}).values():
            if isinstance(spec[0], list) and any(
                "safetensors" in str(choice) for choice in spec[0]
            ):
                spec[0][:0] = [f"model {number}.safetensors" for number in range(MODELS)]
    return Nodes(classes)


def graph(groups: int) -> dict[str, Any]:
    """`groups` times eight nodes, each group refining the picture of the one before, then saved."""
    nodes: dict[str, Any] = {
        "loader": _node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"),
        "0.latent": _node("EmptyLatentImage", width=512, height=512, batch_size=1),
    }
    latent, model, clip = ["0.latent", 0], ["loader", 0], ["loader", 1]
    for number in range(groups):
        name = f"{number}."
        nodes[f"{name}lora"] = _node(
            "LoraLoaderModelOnly", model=model, lora_name=_lora(), strength_model=0.8
        )
        model = [f"{name}lora", 0]
        nodes[f"{name}good"] = _node("CLIPTextEncode", text=f"a cat {number}", clip=clip)
        nodes[f"{name}bad"] = _node("CLIPTextEncode", text="blurred", clip=clip)
        nodes[f"{name}sample"] = _node(
            "KSampler",
            seed=number,
            steps=20,
            cfg=8.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=0.5,
            model=model,
            positive=[f"{name}good", 0],
            negative=[f"{name}bad", 0],
            latent_image=latent,
        )
        nodes[f"{name}grow"] = _node(
            "LatentUpscaleBy",
            samples=[f"{name}sample", 0],
            upscale_method="bilinear",
            scale_by=1.1,
        )
        latent = [f"{name}grow", 0]
        nodes[f"{name}decode"] = _node("VAEDecode", samples=latent, vae=["loader", 2])
        nodes[f"{name}invert"] = _node("ImageInvert", image=[f"{name}decode", 0])
        nodes[f"{name}save"] = _node(
            "SaveImage", images=[f"{name}invert", 0], filename_prefix="ComfyUI"
        )
    return nodes


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _lora() -> str:
    return f"model {MODELS // 2}.safetensors"


def main() -> None:
    """Print the median and the 95th percentile in milliseconds."""
    classes = catalog()
    print("nodes   median ms   p95 ms")
    for groups in (1, 6, 25, 125):
        nodes = graph(groups)
        assert validate(nodes, None, classes.shape, has_file=lambda _: True).faultless
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            validate(nodes, None, classes.shape, has_file=lambda _: True)
            times.append((time.perf_counter() - begun) * 1000)
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"{len(nodes):5} {statistics.median(times):11.2f} {p95:8.2f}")


if __name__ == "__main__":
    main()
