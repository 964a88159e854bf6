"""The body of all classes: spliced, compressed and tagged."""

from __future__ import annotations

import gzip
import json
import random
import sys
import zlib
from collections.abc import Callable, Sequence

import pytest

from proxy.catalog.uploads import Slot
from proxy.catalog.whole import Body, Coding, Whole

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGES = Slot(("x.png",), ("image",))
SOUNDS = Slot((), ("audio",))
FILES = ["b.png", "a.png", "song.flac", "sub/c.png"]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def data(body: Body) -> bytes:
    return b"".join(body.pieces)


@pytest.fixture
def whole() -> Whole:
    return Whole([b'{"A": ', IMAGES, b', "B": "' + b"b" * 100_000 + b'", "C": ', SOUNDS, b"}"])


UNPACK: dict[Coding, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "zstd": zstd.decompress,
}


@pytest.mark.parametrize("files", [[], FILES, [f"{n}.png" for n in range(10_000)]])
@pytest.mark.parametrize("coding", UNPACK)
def test_a_body_is_what_it_stands_for(whole: Whole, coding: Coding, files: Sequence[str]) -> None:
    images = sorted({"x.png", *(file for file in files if file.endswith("png") and file[0] != "s")})
    sounds = [file for file in files if file.endswith("flac")]
    body = whole.body(files, coding)
    expected = {"A": images, "B": "b" * 100_000, "C": sounds}
    assert UNPACK[coding](data(body)) == json.dumps(expected).encode()
    assert body.length == len(data(body))


@pytest.mark.parametrize("parts", [[b"{}"], [b""], [IMAGES], [IMAGES, IMAGES], [noise(200_000)]])
def test_spliced_gzip_is_one_member_that_strict_readers_take(parts: list[bytes | Slot]) -> None:
    whole = Whole(parts)
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    read = reader.decompress(data(whole.body(FILES, "gzip")))
    assert read == data(whole.body(FILES, "identity"))
    assert (reader.eof, reader.unused_data) == (True, b"")


def test_large_pieces_are_shared_and_small_ones_joined(whole: Whole) -> None:
    bodies = [whole.body(files, "identity").pieces for files in ([], FILES)]
    assert [len(pieces) for pieces in bodies] == [3, 3]
    assert bodies[0][1] is bodies[1][1]


def test_an_entity_tag_tells_codings_and_files_apart(whole: Whole) -> None:
    tags = [whole.body(files, coding).etag for files in ([], FILES) for coding in UNPACK]
    assert len(set(tags)) == len(tags)


def test_an_entity_tag_is_the_same_for_the_same_bytes(whole: Whole) -> None:
    assert whole.body([], "gzip").etag == whole.body(["notes.txt"], "gzip").etag
