"""The node classes of the simulator, in the form of ComfyUI's own.

A class of your own is a `NodeClass` with a coroutine function that runs it:

    async def run(inputs, context):
        context.progress(1, 1)
        return (inputs["text"].upper(),)

    SHOUT = NodeClass("Shout", run, required={"text": ["STRING", {}]}, outputs=("STRING",))
"""

from __future__ import annotations

import copy
import dataclasses
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.simulator.nodes import (
    conditioning,
    images,
    latents,
    loaders,
    loading,
    masks,
    media,
    meshes,
    packs,
    primitives,
    sampling,
    saving,
    special,
)
from proxy.simulator.nodes.models import MODEL_FILES
from proxy.simulator.nodes.node_class import (
    Blocker,
    Check,
    Context,
    Files,
    InputSpec,
    NodeClass,
    NodeClasses,
    Output,
    Run,
)
from proxy.simulator.nodes.specs import pure

__all__ = [
    "MODEL_FILES",
    "Blocker",
    "Check",
    "Context",
    "Files",
    "InputSpec",
    "NodeClass",
    "NodeClasses",
    "Output",
    "Run",
    "object_info",
    "pack_nodes",
    "pure",
    "standard_nodes",
    "with_imports",
]

_ROOMS = (
    sampling,
    loaders,
    conditioning,
    latents,
    images,
    masks,
    loading,
    saving,
    media,
    meshes,
    primitives,
    special,
)


def standard_nodes() -> dict[str, NodeClass]:
    """Return the built-in classes by name."""
    return {node.name: node for room in _ROOMS for node in room.NODES}


def pack_nodes() -> dict[str, NodeClass]:
    """Return the classes of node packs by name, which a cloud may have or not."""
    return {node.name: node for node in packs.NODES}


def with_imports(nodes: NodeClasses, imports: Mapping[str, Sequence[str]]) -> NodeClasses:
    """Return the classes with an account's own models in the lists of the folders that they are
    in."""
    changed = dict(nodes)
    for folder, names in imports.items():
        listed = MODEL_FILES[folder]
        for name, node in changed.items():
            changed[name] = dataclasses.replace(
                node,
                required=_listing(node.required, listed, names),
                optional=_listing(node.optional, listed, names),
            )
    return changed


def _listing(
    specs: Mapping[str, InputSpec], listed: Sequence[str], names: Sequence[str]
) -> dict[str, InputSpec]:
    return {
        name: [sorted([*spec[0], *names]), *spec[1:]]
        if isinstance(spec[0], list) and spec[0][: len(listed)] == listed != []
        else spec
        for name, spec in specs.items()
    }


def object_info(nodes: NodeClasses, uploads: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer of `GET /api/object_info`.

    `uploads` are the names of uploaded files; each goes to the lists of the inputs with the
    `image_upload`, `audio_upload` or `video_upload` flag that fits its extension.
    """
    infos = {name: node.object_info() for name, node in nodes.items()}
    if uploads:
        for info in infos.values():
            for specs in info["input"].values():
                for name, spec in specs.items():
                    specs[name] = _with_uploads(spec, uploads)
    return infos


def _with_uploads(spec: Any, uploads: Sequence[str]) -> Any:
    options = spec[1] if len(spec) > 1 else None
    if not isinstance(options, dict) or "image_folder" in options:
        return spec
    kinds = [kind for kind in ("image", "audio", "video") if options.get(f"{kind}_upload")]
    if not kinds:
        return spec
    fitting = sorted(name for name in uploads if _kind(name) in kinds)
    changed: list[Any] = copy.deepcopy(list(spec))
    if isinstance(changed[0], list):
        changed[0] += fitting
    else:
        changed[1]["options"] += fitting
    return changed


def _kind(name: str) -> str:
    return (mimetypes.guess_type(name)[0] or "").partition("/")[0]
