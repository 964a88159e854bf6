"""The node classes."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from proxy.catalog import node_classes
from proxy.catalog.node_classes import Bodies, Body, Coding, Listing, Slot, Whole
from proxy.catalog.service import Nodes, read

HASH = "a" * 64


def loader(options: list[Any], flags: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"required": {"file": [options, flags]}}}


def choices(info: dict[str, Any], *files: str) -> Any:
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", dict.fromkeys(files)))
    return entry["Loader"]["input"]["required"]["file"][0]


FILES = "b.png", "a.webp", "clip.mp4", "song.flac", "notes.txt", "sub/c.png", "no extension"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("image_upload", ["a.webp", "b.png"]),
        ("animated_image_upload", ["a.webp", "b.png"]),
        ("video_upload", ["clip.mp4"]),
        ("audio_upload", ["clip.mp4", "song.flac"]),
    ],
)
def test_an_upload_input_lists_the_files_of_its_kind(flag: str, expected: list[str]) -> None:
    assert choices(loader([], {flag: True}), *FILES) == expected


def test_the_clouds_own_choices_stay_and_hashes_go() -> None:
    offered = ["example.png", f"{HASH}.png", HASH, f"blake3:{HASH}", f"{HASH}.png [output]"]
    assert choices(loader(offered, {"image_upload": True}), "b.png") == ["b.png", "example.png"]


def test_a_new_style_list_is_filled_too() -> None:
    info = {"input": {"optional": {"file": ["COMBO", {"video_upload": True, "options": []}]}}}
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", {"clip.mp4": 9}))
    options = entry["Loader"]["input"]["optional"]["file"][1]["options"]
    assert options == ["clip.mp4"]


@pytest.mark.parametrize(
    "info",
    [
        loader(["x"], {}),
        loader(["x"], {"image_upload": False}),
        loader(["x"], {"image_upload": True, "image_folder": "output"}),
        {"input": {"required": {"file": ["STRING", {"image_upload": True}]}}},
        {"input": {"required": {"file": ["IMAGE"]}}},
        {"input": {"required": ["odd"]}},
        {"input": None},
        {},
    ],
)
def test_other_inputs_are_left_as_they_are(info: dict[str, Any]) -> None:
    entry = json.loads(Nodes({"Loader": info}).one_json("Loader", {"b.png": None}))
    assert entry["Loader"].items() >= info.items()


def test_fields_that_comfyui_always_has_are_filled_in() -> None:
    nodes = Nodes({"A": {"search_aliases": ["x"]}})
    assert nodes["A"] == {
        "is_input_list": False,
        "has_intermediate_output": False,
        "search_aliases": ["x"],
    }


def test_the_whole_is_all_classes_in_comfyuis_json() -> None:
    nodes = read(b'{"A":{"x":18446744073709551615,"y":"\xc3\xa9"},"B":{},"odd":5}')
    whole = b"".join(nodes.whole.body({}, "identity").pieces)
    assert whole == json.dumps({"A": nodes["A"], "B": nodes["B"]}).encode()
    assert b'"x": 18446744073709551615, "y": "\\u00e9"' in whole


def test_one_class_is_a_part_of_the_whole() -> None:
    nodes = Nodes({"A": {}, "Loader": loader(["x.png"], {"image_upload": True}), "B": {}})
    files = {"b.png": 5}
    one = nodes.one_json("Loader", files)
    assert b", " + one[1:-1] + b", " in b"".join(nodes.whole.body(files, "identity").pieces)


def test_every_list_of_a_class_is_filled() -> None:
    flags = {"image_upload": True}
    sections = {"optional": {"c": [["c.png"], flags]}, "required": {"a": [["a.png"], flags]}}
    entry = json.loads(Nodes({"L": {"input": sections}}).one_json("L", {"b.png": 5}))["L"]["input"]
    assert entry["optional"]["c"][0] == ["b.png", "c.png"]
    assert entry["required"]["a"][0] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("name", "input_name", "expected"),
    [
        ("LoadImageMask", "image", ["a.png", "b.latent", "c.PDF", "d.pdf", "e.txt"]),
        ("LoadImageSetNode", "images", ["a.png"]),
        ("LoadLatent", "latent", ["b.latent"]),
        ("GeminiInputFiles", "file", ["d.pdf", "e.txt"]),
        ("OpenAIInputFiles", "file", ["d.pdf", "e.txt"]),
        ("Load3D", "model_file", ["3d/f.GLB", "3d/x/g.obj"]),
        ("LoadImageDataSetFromFolder", "folder", ["3d", "3d/x", "set"]),
        ("LoadImageTextSetFromFolderNode", "folder", ["3d", "3d/x", "set"]),
        ("Load3D", "image", []),
        ("Other", "latent", []),
    ],
)
@pytest.mark.parametrize("new_style", [False, True])
def test_classes_that_list_something_else(
    name: str, input_name: str, expected: list[str], new_style: bool
) -> None:
    files = ["a.png", "b.latent", "c.PDF", "d.pdf", "e.txt"]
    files += ["3d/f.GLB", "3d/x/g.obj", "3d/h.png", "set/i.png"]
    spec: list[Any] = ["COMBO", {"options": [], "tooltip": "x"}] if new_style else [[]]
    info = {"name": name, "input": {"required": {input_name: spec}}}
    filled = json.loads(Nodes({name: info}).one_json(name, dict.fromkeys(files)))[name]
    given = filled["input"]["required"][input_name]
    assert (given[1]["options"] if new_style else given[0]) == expected


@pytest.mark.parametrize(
    ("name", "megabytes"), [("GeminiInputFiles", 20), ("OpenAIInputFiles", 32)]
)
def test_partner_nodes_list_no_file_that_they_cannot_send(name: str, megabytes: int) -> None:
    info = {"name": name, "input": {"required": {"file": ["COMBO", {"options": []}]}}}
    limit = megabytes * 1024 * 1024
    files = {"a.txt": limit, "b.pdf": limit - 1, "c.txt": None}
    filled = json.loads(Nodes({name: info}).one_json(name, files))[name]
    assert filled["input"]["required"]["file"][1]["options"] == ["b.pdf", "c.txt"]


def test_an_unknown_class_is_an_empty_object() -> None:
    assert Nodes({"A": {}}).one_json("B", {}) == b"{}"


def test_it_is_a_mapping_that_parses_what_is_asked_for() -> None:
    nodes = Nodes({"A": {"x": 1}, "B": {}})
    assert (list(nodes), len(nodes), "A" in nodes, nodes.get("C")) == (["A", "B"], 2, True, None)
    assert nodes["A"] is nodes["A"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"<html>"])
def test_what_is_no_catalog_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(body)


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
    for one in (counted, Counted(), counted):
        await made.get(one, {}, "gzip")
    assert len(counted.threads) == 1


async def test_the_least_asked_for_is_forgotten(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_classes, "MAX_BODIES", 2)
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
