"""What a model is, guessed from its name: the cloud does not tell what is in its files."""

from __future__ import annotations

import re
from typing import Any

#: Patterns in names and the base models that they tell, in the words of comfyui-tooling-nodes; the
#: first that fits counts.
_BASES: tuple[tuple[str, str], ...] = (
    (r"flux[._-]?2", "flux2"),
    (r"z[._-]?image", "z-image"),
    (r"qwen[._-]?image", "qwen-image"),
    (r"ernie[._-]?image", "ernie-image"),
    (r"chroma", "chroma"),
    (r"anima(?!te|l|t)", "anima"),
    (r"krea[._-]?2", "krea2"),
    (r"schnell", "flux-schnell"),
    (r"flux", "flux"),
    (r"sd3|stable[._-]?diffusion[._-]?3", "sd3"),
    (r"hidream", "hi-dream"),
    (r"lumina", "lumina2"),
    (r"omnigen", "omnigen2"),
    (r"wan[._-]?2", "wan21"),
    (r"hunyuan[._-]?video", "hunyuan-video"),
    (r"ltx", "ltxv"),
    (r"cosmos", "cosmos"),
    (r"mochi", "mochi"),
    (r"aura[._-]?flow", "aura-flow"),
    (r"cascade", "cascade-c"),
    (r"svd|stable[._-]?video", "svd"),
    (r"refiner", "sdxl-refiner"),
    (r"xl|pony|illustrious|noob", "sdxl"),
    (r"sd[._-]?2|v2[._-]1|768-v", "sd20"),
    (
        r"sd[._-]?1|v1[._-]5|1[._]5|dreamshaper|realistic|serenity|flat2d|photon|deliberate"
        r"|juggernaut_reborn|epicrealism",
        "sd15",
    ),
)
_INPAINT = re.compile(r"inpaint|[._-]fill")
_V_PREDICTION = re.compile(r"v[._-]?pred")
_KLEIN = re.compile(r"klein[._-]?(?:base[._-]?)?(4b|9b)")

#: Base models of which there are files for inpainting.
_WITH_INPAINT = frozenset({"sd15", "sdxl", "flux"})


def guessed(name: str) -> dict[str, Any]:
    """Return a model as `GET /api/etn/model_info` describes it: base model, inpainting, type."""
    lower = name.lower()
    base = next((base for pattern, base in _BASES if re.search(pattern, lower)), None)
    if base is None:
        return {"base_model": "unknown"}
    inpaints = base in _WITH_INPAINT and _INPAINT.search(lower) is not None
    found: dict[str, Any] = {"base_model": base, "is_inpaint": inpaints}
    if base == "sdxl":
        found["type"] = "v-prediction" if _V_PREDICTION.search(lower) else "eps"
    if base == "flux2":
        klein = _KLEIN.search(lower)
        found["type"] = f"klein-{klein[1]}" if klein else "dev"
    return found
