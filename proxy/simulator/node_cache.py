"""What nodes gave in earlier runs, so that only what changed runs again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from proxy.simulator.nodes import NodeClass, Output
from proxy.translate import codec


class NodeCache:
    """The outputs of nodes of previous runs, by the signature of their inputs: up to `limit` with
    `max_bytes` of pictures, the oldest removed first."""

    def __init__(self, limit: int = 64, max_bytes: int = 256 * 1024**2) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        self._bytes = 0
        self._outputs: OrderedDict[str, Output] = OrderedDict()

    def get(self, signature: str) -> Output | None:
        """Return the output of a node with this signature, or `None`."""
        output = self._outputs.get(signature)
        if output is not None:
            self._outputs.move_to_end(signature)
        return output

    def put(self, signature: str, output: Output) -> None:
        """Store the output of a node, and remove the oldest beyond the limits."""
        known = self._outputs.pop(signature, None)
        self._bytes += _size(output) - (_size(known) if known is not None else 0)
        self._outputs[signature] = output
        while len(self._outputs) > self._limit or self._bytes > self._max_bytes:
            self._bytes -= _size(self._outputs.popitem(last=False)[1])

    def clear(self) -> None:
        """Remove everything, as `POST /free` requests."""
        self._outputs.clear()
        self._bytes = 0


def _size(output: Output) -> int:
    """Return the approximate bytes of the pictures of an output."""
    pictures = (picture for value in output.values for picture in getattr(value, "pictures", ()))
    return sum(picture.width * picture.height * len(picture.getbands()) for picture in pictures)


def signature(
    node_id: str,
    node_class: NodeClass,
    inputs: Mapping[str, Any],
    sources: Mapping[str, str | None],
) -> str | None:
    """Return a name for all that a node's outputs are computed from; `None` where they must not be
    kept.

    `sources` are the signatures of the linked nodes. A node that asks for its own id shares nothing
    with its twins.
    """
    if node_class.volatile:
        return None
    parts: list[Any] = [node_class.name]
    if "UNIQUE_ID" in node_class.hidden.values():
        parts.append(node_id)
    for name in sorted(node_class.inputs()):
        value = inputs.get(name)
        if isinstance(value, list):
            source = sources[value[0]]
            if source is None:
                return None
            parts.append([name, source, value[1]])
        elif name in inputs:
            parts.append([name, value])
    return hashlib.sha256(codec.dump_bytes(parts)).hexdigest()
