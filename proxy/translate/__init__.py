"""Pure translations between the local and the cloud form: no I/O, no clock, no state.

Here is the release of ComfyUI that the proxy speaks as, with what a newer one says in another way.
"""

from __future__ import annotations

from typing import Any

#: The release whose API is spoken.
COMFYUI = "0.46.0"
#: The versions that it requires, for when the packages of the web interface are not installed.
FRONTEND = "1.59.1"
TEMPLATES = "0.11.97"
PYTORCH = "2.9.0+cu129"

#: `deploy_environment` of a ComfyUI that was cloned.
DEPLOYED_AS = "local-git"

#: The header by which a program says what it is; it goes to `extra_data.comfy_usage_source`.
USAGE_SOURCE = "Comfy-Usage-Source"

#: What each entry of `object_info` has.
NODE_FIELDS: dict[str, Any] = {
    "is_input_list": False,
    "has_intermediate_output": False,
    "search_aliases": [],
}

_MODELS = [".bin", ".ckpt", ".pkl", ".pt", ".pt2", ".pth", ".safetensors", ".sft"]
_OTHER_MODELS = {"diffusers": ["folder"], "classifiers": [""]}


def model_extensions(folder: str) -> list[str]:
    """Return the endings of the files that a model folder lists, as `GET /experiment/models` has
    them."""
    return _OTHER_MODELS.get(folder, _MODELS)


#: The type of the error for a class that there is not.
UNKNOWN_CLASS = "missing_node_type"

#: Message and details of `invalid_prompt_id`.
INVALID_PROMPT_ID = (
    "prompt_id must be a valid UUID",
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
    "omit it to let the server generate one",
)

#: `Cache-Control` of scripts and styles.
SCRIPTS_CACHED = "no-store"
