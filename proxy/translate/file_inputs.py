"""Inputs of nodes that are files for certain, by what the catalog says of their class.

Source: the flags of ComfyUI's inputs. A string that only looks like a file may be a prompt.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.translate.shapes import Shape, lists_uploads, options_of, specs_of

#: Inputs of ComfyUI's and of known packs' loaders, whose lists carry no flag.
_LOADERS = frozenset(
    {
        ("LoadImage", "image"),
        ("LoadImageMask", "image"),
        ("LoadImageOutput", "image"),
        ("LoadAudio", "audio"),
        ("LoadVideo", "file"),
        ("LoadLatent", "latent"),
        ("Load3D", "model_file"),
        ("Load3DAnimation", "model_file"),
        ("LoadImageSetNode", "images"),
        ("GeminiInputFiles", "file"),
        ("OpenAIInputFiles", "file"),
        ("VHS_LoadVideo", "video"),
        ("VHS_LoadAudioUpload", "audio"),
    }
)

#: How a graph refers to a file by its id.
ASSET = "core/ASSET"


def is_file_input(
    class_type: str, shape: Shape | None, name: str, given: Mapping[str, Any]
) -> bool:
    """Return whether an input is the name of a file; `given` are all inputs of its node."""
    if is_loader(class_type, name):
        return True
    if shape is None:
        return False
    return any(known.uploads and known.name == name for known in shape.expanded(given))


def is_loader(class_type: str, name: str) -> bool:
    """Return whether an input is that of a known loader, whatever the catalog says of it."""
    return (class_type, name) in _LOADERS


def file_inputs(class_type: str, info: object) -> Iterator[str]:
    """Yield the names of the inputs that a class declares as ones that list files."""
    for name, spec in specs_of(info).items():
        if lists_uploads(options_of(spec)) or is_loader(class_type, name):
            yield name


def names_file(choice: object) -> bool:
    """Return whether a choice of a list of files is the name of one, and not such as `none`."""
    return isinstance(choice, str) and bool(posixpath.splitext(choice)[1])


def is_asset(value: object) -> bool:
    """Return whether a value refers to a file by an id, which only the proxy may do."""
    return isinstance(value, Mapping) and value.get("__type") == ASSET
