"""The node classes of a deployment, by the list of the install that its build was made from."""

from __future__ import annotations

from proxy.translate import codec
from proxy.translate.file_inputs import file_inputs, names_file
from proxy.translate.shapes import choices_of

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
        files = set(file_inputs(class_type, info))
        for name, listed in choices_of(info):
            if name in files:  # what is no file, such as `none`, stays
                listed[:] = [choice for choice in listed if not names_file(choice)]
    return codec.dump_bytes(classes)
