"""The names that the files of an output have already. No I/O."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import msgspec

from proxy.files.content_index import hash_in
from proxy.translate import names
from proxy.translate.output_files import OutputItem

#: What a name and a file are compared by: parts of key, index and cloud name.
_ALL, _CLOUD_NAME, _PLACE = slice(3), slice(2, 3), slice(2)
#: Numbers that are tried one after the other.
MAX_TRIED = 32


class GivenName(msgspec.Struct, frozen=True):
    """A name that was given to the file at `index` under `key` of a node's output.

    `asset` is the id of its record.
    """

    key: str
    index: int
    cloud_name: str
    type: str
    path: str
    asset: str | None = None


def known_names(items: Sequence[OutputItem], given: Sequence[GivenName]) -> list[GivenName] | None:
    """Return the names of items that are all reported again as they were before, else `None`."""
    known = {(name.key, name.index, name.cloud_name): name for name in given}
    try:
        return [known[item.key, item.position, item.cloud_name] for item in items]
    except KeyError:
        return None


def matching_names(
    items: Sequence[OutputItem], given: Sequence[GivenName]
) -> list[GivenName | None]:
    """Return the name that each file has already, or `None`.

    A file is matched by its cloud name, of several such names by that at its key and index. If an
    event and the job's detail have different names of it, it is matched by key and index, unless
    both names are hashes.
    """
    free = dict(enumerate(given))
    matched: list[GivenName | None] = [None] * len(items)
    for part in (_ALL, _CLOUD_NAME, _PLACE):
        candidates = defaultdict[object, deque[int]](deque)
        for number, name in free.items():
            candidates[(name.key, name.index, name.cloud_name)[part]].append(number)
        for at, item in enumerate(items):
            if matched[at] is not None:
                continue
            numbers = candidates[(item.key, item.position, item.cloud_name)[part]]
            for number in numbers:
                if _may_be_same(item.cloud_name, free[number].cloud_name):
                    matched[at] = free.pop(number)
                    numbers.remove(number)
                    break
    return matched


def _may_be_same(name: str, other: str) -> bool:
    """Return whether two cloud names may be of one file: different hashes are not."""
    return name == other or not (hash_in(name) and hash_in(other))


def is_better(new: str, old: str) -> bool:
    """Return whether a cloud name replaces another one of the same file."""
    return new != old and (hash_in(new) is not None or hash_in(old) is None)


def display_name(item: OutputItem) -> str | None:
    """Return the cloud's display name, sent beside the hash or in its place, or `None`."""
    shown = item.item.get("display_name")
    if isinstance(shown, str) and shown and hash_in(shown) is None:
        return shown
    if hash_in(item.cloud_name) is None and names.split_counted(item.cloud_name):
        return item.cloud_name
    return None


def first_free(start: int, is_free: Callable[[int], bool]) -> int:
    """Return a free number that is at least `start`, behind one that is not free if it is larger.

    That is the first one if it is among the next `MAX_TRIED`. Where so many are taken, a free one
    is found by bisection, which takes few looks.
    """
    for number in range(start, start + MAX_TRIED):
        if is_free(number):
            return number
    taken, step = start + MAX_TRIED - 1, MAX_TRIED
    while not is_free(taken + step):
        taken, step = taken + step, 2 * step
    free = taken + step
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (taken, middle) if is_free(middle) else (middle, free)
    return free
