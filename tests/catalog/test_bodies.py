"""The bodies of `GET /object_info`."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import sys
import threading
import zlib
from collections.abc import Callable, Sequence

import pytest

from proxy.catalog import bodies as module
from proxy.catalog.bodies import Bodies, Body, Coding, Whole
from proxy.catalog.file_lists import Listing, Slot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGES = Slot(("x.png",), ("image",))
SOUNDS = Slot((), ("audio",))
LISTED = {"b.png": 3, "a.png": None, "song.flac": 0, "sub/c.png": 2}


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


@pytest.mark.parametrize("files", [[], [*LISTED], [f"{n}.png" for n in range(10_000)]])
@pytest.mark.parametrize("coding", UNPACK)
def test_a_body_is_what_it_stands_for(whole: Whole, coding: Coding, files: Sequence[str]) -> None:
    images = sorted({"x.png", *(file for file in files if file.endswith("png") and file[0] != "s")})
    sounds = [file for file in files if file.endswith("flac")]
    body = whole.body(dict.fromkeys(files), coding)
    expected = {"A": images, "B": "b" * 100_000, "C": sounds}
    assert UNPACK[coding](data(body)) == json.dumps(expected).encode()
    assert body.length == len(data(body))


@pytest.mark.parametrize("parts", [[b"{}"], [b""], [IMAGES], [IMAGES, IMAGES], [noise(200_000)]])
def test_spliced_gzip_is_one_member_that_strict_readers_take(parts: list[bytes | Slot]) -> None:
    whole = Whole(parts)
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    read = reader.decompress(data(whole.body(LISTED, "gzip")))
    assert read == data(whole.body(LISTED, "identity"))
    assert (reader.eof, reader.unused_data) == (True, b"")


def test_large_pieces_are_shared_and_small_ones_joined(whole: Whole) -> None:
    bodies = [whole.body(files, "identity").pieces for files in ({}, LISTED)]
    assert [len(pieces) for pieces in bodies] == [3, 3]
    assert bodies[0][1] is bodies[1][1]


def test_an_entity_tag_tells_codings_and_files_apart(whole: Whole) -> None:
    tags = [whole.body(files, coding).etag for files in ({}, LISTED) for coding in UNPACK]
    assert len(set(tags)) == len(tags)


def test_an_entity_tag_is_the_same_for_the_same_bytes(whole: Whole) -> None:
    assert whole.body({}, "gzip").etag == whole.body({"notes.txt": 7}, "gzip").etag


class Counted(Whole):
    """Remembers in which threads it was put together; fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__([b"{}"])
        self.threads: list[int] = []
        self.failures = 0

    def body(self, files: Listing, coding: Coding) -> Body:
        self.threads.append(threading.get_ident())
        if self.failures:
            self.failures -= 1
            raise MemoryError
        return super().body(files, coding)


@pytest.fixture
def counted() -> Counted:
    return Counted()


async def test_a_body_is_made_once_for_all_who_ask(counted: Counted) -> None:
    made = Bodies()
    together = await asyncio.gather(*(made.get(counted, {}, "gzip") for _ in range(10)))
    assert all(body is together[0] for body in [*together, await made.get(counted, {}, "gzip")])
    assert len(counted.threads) == 1
    assert counted.threads[0] != threading.get_ident()


async def test_other_files_and_codings_get_their_own(counted: Counted) -> None:
    made = Bodies()
    for files in ({}, {"a.png": None}):
        await made.get(counted, files, "gzip")
        await made.get(counted, files, "identity")
    assert len(counted.threads) == 4


async def test_catalogs_of_several_accounts_do_not_push_each_other_out(counted: Counted) -> None:
    made = Bodies()
    for whole in (counted, Counted(), counted):
        await made.get(whole, {}, "gzip")
    assert len(counted.threads) == 1


async def test_the_least_asked_for_is_forgotten(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODIES", 2)
    made = Bodies()
    for file in "a", "b", "a", "c", "a", "b":
        await made.get(counted, {file: None}, "gzip")
    assert len(counted.threads) == 4


async def test_who_leaves_does_not_take_it_from_the_others(counted: Counted) -> None:
    made = Bodies()
    leaving, staying = (asyncio.create_task(made.get(counted, {}, "gzip")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).coding == "gzip"


async def test_what_failed_is_made_again(counted: Counted) -> None:
    made = Bodies()
    counted.failures = 1
    with pytest.raises(MemoryError):
        await made.get(counted, {}, "gzip")
    assert (await made.get(counted, {}, "gzip")).length
