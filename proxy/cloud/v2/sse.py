"""Server-sent events, as a browser reads them (HTML, "Server-sent events"). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

#: Maximum bytes of a frame: a preview is the largest.
MAX_FRAME_BYTES = 2 * 1024 * 1024


class StreamFrame(Struct, frozen=True):
    """A frame: its type, and its data as text."""

    type: str
    data: str


class OversizedFrameError(ValueError):
    """Raised when a frame is larger than `MAX_FRAME_BYTES`."""


@dataclass(slots=True)
class FrameParser:
    """Makes frames of the bytes of a stream, however these are cut."""

    _rest: bytearray = field(init=False, default_factory=bytearray)
    _type: str = field(init=False, default="")
    _lines: list[str] = field(init=False, default_factory=list)
    _size: int = field(init=False, default=0)

    def feed(self, data: bytes) -> Iterator[StreamFrame]:
        """Take bytes; yield the frames that they complete. Raises `OversizedFrameError`."""
        self._rest += data
        lines: list[bytes] = []
        if b"\n" in data:
            *lines, last = bytes(self._rest).split(b"\n")
            self._rest = bytearray(last)
        if len(self._rest) > MAX_FRAME_BYTES:
            raise OversizedFrameError
        for ended in lines:
            line = ended.removesuffix(b"\r")
            self._size += len(line)
            if self._size > MAX_FRAME_BYTES:
                raise OversizedFrameError
            if line:
                self._field(line.decode(errors="replace"))
                continue
            if self._lines:
                yield StreamFrame(self._type or "message", "\n".join(self._lines))
            self._type, self._lines, self._size = "", [], 0

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._lines.append(value)
