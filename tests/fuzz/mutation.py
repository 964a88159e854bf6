"""Changes of inputs that a fuzzer of bytes seldom finds: JSON stays JSON, and things repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

#: Values of types that a field does not expect, and numbers and texts at the edge of one.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**63, 10**400),
    *("", "x", "0", "-1", "1e400", "\0", "\ud800", "é" * 100, "a.b", "../..", "/", "%", "x" * 300),
    *([], {}, [[]], [{}], [None], ["1", 0], ["1", "0"], [1, 0], {"": ""}, {"a": {}}, {"a": []}),
)

#: How many times something may repeat.
_TIMES = (2, 3, 10, 100, 1000, 10_000)


def mutated_json(data: bytes, max_size: int, random: Random) -> bytes | None:
    """Return JSON in which some values are changed; `None` if the data are no JSON."""
    encoded = data
    try:
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            root = [json.loads(encoded)]  # anew: what has grown shares its items
            _change(root, random)
            encoded = json.dumps(root[0]).encode()
            if len(encoded) > max_size:
                return None
    except (ValueError, RecursionError):  # no JSON, or too deep to be copied or written
        return None
    return encoded


def repeated(data: bytes, max_size: int, random: Random) -> bytes:
    """Return the data with a part of them many times."""
    start = random.randrange(len(data) + 1)
    stop = min(len(data), start + random.choice((1, 2, 4, 8, 64, 1024)))
    part = data[start:stop] * random.choice(_TIMES)
    return (data[:start] + part + data[stop:])[:max_size]


def _change(root: list[Any], random: Random) -> None:
    """Change one value at any depth, or the keys and items beside it."""
    places = list(_places(root))
    holder, key = random.choice(places)
    match random.randrange(8):
        case 0 | 1 | 2:
            holder[key] = random.choice(ODD)
        case 3:
            other, at = random.choice(places)
            holder[key] = deepcopy(other[at])
        case 4:
            if holder is not root:
                del holder[key]
        case 5:
            holder[key] = [holder[key]] if random.random() < 0.5 else {"0": holder[key]}
        case 6:
            names = [name for _, name in places if isinstance(name, str)] or ["x"]
            if isinstance(holder, dict):
                holder[random.choice(names)] = holder.pop(key)
        case _:
            _grow(holder, key, random)


def _grow(holder: Any, key: Any, random: Random) -> None:
    """Make a text or a list longer, an object wider, and anything else deeper."""
    value, times = holder[key], random.choice(_TIMES)
    match value:
        case str() | list():
            holder[key] = value * min(times, 1 + 60_000 // (1 + len(json.dumps(value))))
        case dict() if value:
            name, item = random.choice(list(value.items()))
            count = min(times, 1 + 60_000 // (8 + len(json.dumps(item))))
            value.update({f"{name}{number}": item for number in range(count)})
        case _:
            for _ in range(min(times, 400)):
                value = [value] if random.random() < 0.5 else {"a": value}
            holder[key] = value


def _places(root: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the containers with the keys and indexes of all values in them."""
    pending: list[Any] = [root]
    left = 20_000
    while pending and left > 0:
        holder = pending.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            left -= 1
            yield holder, key
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])
