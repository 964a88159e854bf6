"""Which content coding a client wants (RFC 9110, 12.5.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ITEM = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?")

IDENTITY = "identity"


def coding(accepted: Iterable[str], offered: Sequence[str]) -> str:
    """The coding for a request: one of `offered`, or `identity`.

    `accepted` are the values of its `Accept-Encoding` headers, `offered` our codings, the best
    first. Only what a client names is chosen, with a weight above 0 and not below that of
    `identity`: the one of the highest weight, of equals the first offered. `*` names nothing, an
    item that cannot be read neither, and who refuses everything gets `identity`, as from a server
    that has no codings.
    """
    weights: dict[str, float] = {}
    for value in accepted:
        for item in value.split(","):
            read = _ITEM.fullmatch(item)
            if read:
                weights[read[1].lower().removeprefix("x-")] = float(read[2] or 1)
    named = [name for name in offered if weights.get(name, 0) > 0]
    best = max(named, key=weights.__getitem__, default=IDENTITY)
    return IDENTITY if weights.get(best, 0) < weights.get(IDENTITY, 0) else best
