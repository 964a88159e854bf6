"""The tables of a replica: what its services keep in memory, and how much of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

#: What grows by itself. A cache knows how large it may become (`maxsize`), and is none of these.
_TABLES = (dict, list, set, deque)


def tables(root: object) -> Iterator[tuple[str, list[Any]]]:
    """Yield each table that can be reached through attributes of the product's objects, as the path
    to it and its items that are no tasks: of one with keys these."""
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([("", root)])
    while waiting:
        path, item = waiting.popleft()
        if id(item) in seen or hasattr(item, "maxsize"):
            continue
        seen.add(id(item))
        if isinstance(item, _TABLES):
            yield path, [each for each in item if not isinstance(each, asyncio.Task)]
            items = item.values() if isinstance(item, dict) else item
            waiting += ((f"{path}[]", each) for each in items if _is_of_product(each))
        elif _is_of_product(item) or item is root:
            waiting += ((f"{path}.{name}", value) for name, value in _attributes(item))


def _is_of_product(item: object) -> bool:
    is_ours = type(item).__module__.startswith("proxy.") or isinstance(item, _TABLES)
    return is_ours and not isinstance(item, BaseModel)


def _attributes(item: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(item, name):
                yield name, getattr(item, name)
