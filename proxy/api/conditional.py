"""Which part of a file a request asks for, and whether it has it already.

The rules are those of aiohttp's file answers, and so ComfyUI's: `If-Range` looks at dates alone
(an entity tag there counts as absent), and a range that cannot be read is not satisfiable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate

from aiohttp import ETag, web


@dataclass(frozen=True, slots=True)
class Stamp:
    """A version of a file: its length in bytes and when it was written (seconds since 1970).

    `tag` tells versions of the same length and time apart.
    """

    size: int
    modified: float
    tag: str = ""

    @property
    def etag(self) -> str:
        """The entity tag without quotes, in the form that aiohttp gives to a file on disk."""
        tag = f"{int(self.modified * 1e9):x}-{self.size:x}"
        return f"{tag}-{self.tag}" if self.tag else tag

    @property
    def last_modified(self) -> str:
        """The value of `Last-Modified`."""
        return formatdate(math.ceil(self.modified), usegmt=True)


@dataclass(frozen=True, slots=True)
class Part:
    """What to answer: the status (200, 206, 304, 412 or 416) and `count` bytes from `start`."""

    status: int
    start: int = 0
    count: int = 0

    @property
    def stop(self) -> int:
        """The first byte that is not sent any more."""
        return self.start + self.count


def decide(request: web.BaseRequest, stamp: Stamp) -> Part:
    """Weigh the conditions of a request for a file, then its range."""
    if not _is_expected(request, stamp):
        return Part(412)
    if _has_it(request, stamp):
        return Part(304)
    if_range = request.if_range
    if if_range is not None and stamp.modified > if_range.timestamp():
        return Part(200, count=stamp.size)
    return _range(request, stamp.size)


def _is_expected(request: web.BaseRequest, stamp: Stamp) -> bool:
    """`If-Match`, or without it `If-Unmodified-Since`."""
    if request.if_match is not None:
        return _matches(stamp.etag, request.if_match, weak=False)
    since = request.if_unmodified_since
    return since is None or stamp.modified <= since.timestamp()


def _has_it(request: web.BaseRequest, stamp: Stamp) -> bool:
    """`If-None-Match`, or without it `If-Modified-Since`."""
    if request.if_none_match is not None:
        return _matches(stamp.etag, request.if_none_match, weak=True)
    since = request.if_modified_since
    return since is not None and stamp.modified <= since.timestamp()


def _range(request: web.BaseRequest, size: int) -> Part:
    try:
        wanted = request.http_range
    except ValueError:
        return Part(416)
    start, stop = wanted.start, wanted.stop
    if start is None:
        return Part(200, count=size)
    if start < 0:
        start, stop = max(0, size + start), None
    if start >= size:
        return Part(416)
    return Part(206, start, min(size if stop is None else stop, size) - start)


def _matches(etag: str, listed: Iterable[ETag], *, weak: bool) -> bool:
    return any(
        one.value == "*" or (one.value == etag and (weak or not one.is_weak)) for one in listed
    )
