"""What nodes gave in earlier runs, so that only what changed runs again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from proxy.simulator.nodes import NodeClass, Output
from proxy.translate import codec


class NodeCache:
    """What nodes gave in earlier runs, by all that it was computed from. Keeps the newest: at most
    `limit` of them with `most_bytes` of pictures, and nothing larger than that."""

    def __init__(self, limit: int = 64, most_bytes: int = 256 * 1024**2) -> None:
        self._limit, self._most_bytes = limit, most_bytes
        self._bytes = 0
        self._outputs: OrderedDict[str, Output] = OrderedDict()

    def get(self, signature: str) -> Output | None:
        """What a node with this signature gave."""
        output = self._outputs.get(signature)
        if output is not None:
            self._outputs.move_to_end(signature)
        return output

    def put(self, signature: str, output: Output) -> None:
        """Keep what a node gave, and forget the oldest beyond the limit."""
        known = self._outputs.pop(signature, None)
        self._bytes += _size(output) - (_size(known) if known is not None else 0)
        self._outputs[signature] = output
        while len(self._outputs) > self._limit or self._bytes > self._most_bytes:
            self._bytes -= _size(self._outputs.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything, as `POST /free` asks for."""
        self._outputs.clear()
        self._bytes = 0


def _size(output: Output) -> int:
    """About how many bytes the pictures of an output take."""
    pictures = (one for value in output.values for one in getattr(value, "pictures", ()))
    return sum(one.width * one.height * len(one.getbands()) for one in pictures)


def signature(
    node_id: str,
    node_class: NodeClass,
    inputs: Mapping[str, Any],
    sources: Mapping[str, str | None],
) -> str | None:
    """A name for all that a node's outputs are computed from; `None` where they must not be kept.

    `sources` are the signatures of the linked nodes. A node that asks for its own id shares
    nothing with its twins.
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
