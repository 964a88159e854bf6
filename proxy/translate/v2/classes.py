"""The node classes of a deployment, by the list of the install that its build was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.translate import codec
from proxy.translate.file_inputs import declares_files, names_file
from proxy.translate.shapes import section

#: Output nodes whose results go over the socket of a client, which API v2 has not.
_OVER_SOCKET = frozenset(
    {
        "SaveImageWebsocket",
        "ETN_SendImageWebSocket",
        "SwarmSaveImageWS",
        "SwarmSaveAnimatedWebpWS",
    }
)


def of_deployment(body: bytes) -> bytes:
    """Return the classes of an install's `object_info` that a deployment with the same nodes has.

    The files that lists name are in the input folder of that install alone. Nodes whose results
    would get lost are left out. Raises `ValueError` if it is no list of node classes.
    """
    classes = codec.loads(body)
    if not isinstance(classes, dict) or not classes:
        raise ValueError("not a list of node classes")
    for class_type in _OVER_SOCKET:
        classes.pop(class_type, None)
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
