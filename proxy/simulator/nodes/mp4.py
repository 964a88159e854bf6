"""MP4 files of JPEG pictures: ISO/IEC 14496-12 boxes around Motion JPEG, and no sound."""

from __future__ import annotations

import struct
from itertools import accumulate

#: Units of time in a second; a rate of frames is kept to a thousandth.
TIMESCALE = 90_000

_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_JPEG_OBJECT_TYPE = 0x6C  # "Visual ISO/IEC 10918-1", the registration authority's table
_VISUAL_STREAM = 0x04 << 2 | 1


def encode(pictures: list[bytes], size: tuple[int, int], fps: float) -> bytes:
    """Return a video of JPEG pictures, all of one size (width, height), shown at `fps`.

    Raises `ValueError` when there are no pictures.
    """
    if not pictures:
        raise ValueError("a video needs at least one picture")
    head = _box("ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    start = len(head) + 8
    offsets = list(accumulate((len(picture) for picture in pictures[:-1]), initial=start))
    return head + _box("mdat", *pictures) + _movie(pictures, offsets, size, fps)


def pictures_of(data: bytes) -> list[bytes]:
    """Return the JPEG pictures of a file that `encode` made; none for files of another codec."""
    found = []
    start = data.find(b"\xff\xd8\xff")
    while start >= 0:
        end = data.find(b"\xff\xd9", start)
        if end < 0:
            break
        found.append(data[start : end + 2])
        start = data.find(b"\xff\xd8\xff", end)
    return found


def _movie(pictures: list[bytes], offsets: list[int], size: tuple[int, int], fps: float) -> bytes:
    frame = max(1, round(TIMESCALE / fps))
    duration = frame * len(pictures)
    width, height = size
    header = struct.pack(">4xIIII", 0, 0, TIMESCALE, duration)
    movie_header = _box(
        "mvhd", header, struct.pack(">IH10x", 0x10000, 0x100), _MATRIX, struct.pack(">24xI", 2)
    )
    track_header = _box(
        "tkhd",
        struct.pack(">IIIIII8xHHHH", 3, 0, 0, 1, 0, duration, 0, 0, 0, 0),
        _MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )
    media = _box(
        "mdia",
        _box("mdhd", header, struct.pack(">HH", 0x55C4, 0)),  # language "und"
        _box("hdlr", struct.pack(">8x4s12x", b"vide"), b"VideoHandler\0"),
        _box(
            "minf",
            _box("vmhd", struct.pack(">I8x", 1)),
            _box("dinf", _box("dref", struct.pack(">II", 0, 1), _box("url ", b"\0\0\0\1"))),
            _samples([len(picture) for picture in pictures], offsets, size, frame),
        ),
    )
    return _box("moov", movie_header, _box("trak", track_header, media))


def _samples(lengths: list[int], offsets: list[int], size: tuple[int, int], frame: int) -> bytes:
    count = len(lengths)
    return _box(
        "stbl",
        _box("stsd", struct.pack(">II", 0, 1), _sample_entry(size)),
        _box("stts", struct.pack(">IIII", 0, 1, count, frame)),
        _box("stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1)),
        _box("stsz", struct.pack(f">III{count}I", 0, 0, count, *lengths)),
        _box("stco", struct.pack(f">II{count}I", 0, count, *offsets)),
    )


def _sample_entry(size: tuple[int, int]) -> bytes:
    visual = struct.pack(">6xH16xHHIII H32sHh", 1, *size, 0x480000, 0x480000, 0, 1, b"", 24, -1)
    decoder = _descriptor(4, struct.pack(">BB3xII", _JPEG_OBJECT_TYPE, _VISUAL_STREAM, 0, 0))
    stream = _descriptor(3, struct.pack(">HB", 1, 0) + decoder + _descriptor(6, b"\x02"))
    return _box("mp4v", visual, _box("esds", b"\0\0\0\0", stream))


def _box(kind: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind.encode()) + body


def _descriptor(tag: int, body: bytes) -> bytes:
    return struct.pack(">BB", tag, len(body)) + body
