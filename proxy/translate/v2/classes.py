"""The node classes of a deployment, by the list of the install that its build was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.translate import codec
from proxy.translate.file_inputs import declares_files, names_file
from proxy.translate.shapes import section


def without_files(body: bytes) -> bytes:
    """Return an `object_info` without the files that its lists name: they are in the input folder
    of that install, and a deployment does not have them. Raises `ValueError` if it is no list of
    node classes."""
    classes = codec.loads(body)
    if not isinstance(classes, dict) or not classes:
        raise ValueError("not a list of node classes")
    for class_type, info in classes.items():
        declared = info.get("input") if isinstance(info, Mapping) else None
        for group in ("required", "optional"):
            for name, spec in section(declared, group).items():
                if declares_files(class_type, name, spec):
                    _clear(spec)
    return codec.dump_bytes(classes)


def _clear(spec: Any) -> None:
    """Leave in an input's list what is no file, such as `none`."""
    if not isinstance(spec, list) or not spec:
        return
    listed = spec[0]
    if listed == "COMBO" and len(spec) > 1 and isinstance(spec[1], Mapping):
        listed = spec[1].get("options")
    if isinstance(listed, list):
        listed[:] = [choice for choice in listed if not names_file(choice)]
