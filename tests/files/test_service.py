"""Uploads, graphs and conversions through the front."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from files.conftest import OpenFiles
from files.helpers import (
    BLUE,
    RED,
    MemoryCloud,
    bytes_of,
    loaded,
    output_of,
    pixels,
    png,
    record_of,
    upload,
)
from PIL import Image, PngImagePlugin
from yarl import URL

from proxy.api import bodies
from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudRefused, CloudUnauthorized, CloudUnreachable
from proxy.files import uploads
from proxy.files.conversions import Conversion
from proxy.files.pictures import PictureWorkers
from proxy.files.service import Files
from proxy.simulator import Simulator
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError
from proxy.translate.jobs import file_strings
from proxy.translate.output_files import OutputNode

WEBP = Conversion("webp", "", quality=75)


async def test_the_graph_names_what_was_uploaded_last(files: Files, cloud: MemoryCloud) -> None:
    await upload(files, RED)
    assert await loaded(files, "cat.png") == cloud.add(RED)
    await upload(files, BLUE, overwrite=True)
    assert await loaded(files, "cat.png") == cloud.add(BLUE)


async def test_a_text_and_a_number_side_by_side_are_no_link(files: Files) -> None:
    await upload(files, b"cat", "cat.png")
    graph = {"1": {"class_type": "LoadVideo", "inputs": {"file": "cat.png", "frame": 0}}}
    owns = await files.graphs.owned("local", file_strings(graph, lambda _: None), private=False)
    assert owns("cat.png")


async def test_a_listing_that_was_asked_for_before_has_the_new_name_at_once(files: Files) -> None:
    for names in ["cat.png"], ["cat (1).png", "cat.png"]:
        await upload(files, RED if len(names) == 1 else BLUE)
        assert list(await files.namespace.listing("local", "input")) == names


async def test_names_survive_a_restart(open_files: OpenFiles) -> None:
    files = await open_files()
    await upload(files, RED)
    await upload(files, BLUE)
    files = await open_files()
    assert list(await files.namespace.listing("local", "input")) == ["cat (1).png", "cat.png"]
    assert await bytes_of(files, await record_of(files, "cat (1).png")) == BLUE
    assert await upload(files, BLUE) == "cat (1).png"


async def test_an_output_is_an_input_without_a_download_or_an_upload(
    files: Files, cloud: MemoryCloud
) -> None:
    red = cloud.add(RED)
    await output_of(files, red)
    assert await loaded(files, "ComfyUI_00001_.png [output]") == f"{red} [output]"
    assert await loaded(files, "ComfyUI_00001_.png") == "ComfyUI_00001_.png"
    assert cloud.sent == cloud.fetched == []


async def test_an_upload_to_the_output_folder_is_the_clouds_input(
    files: Files, cloud: MemoryCloud
) -> None:
    await upload(files, RED, type="output")
    assert await loaded(files, "cat.png [output]") == cloud.add(RED)


async def test_known_bytes_are_not_sent_again(files: Files, cloud: MemoryCloud) -> None:
    await upload(files, RED)
    await upload(files, RED, "dog.png")
    await upload(files, RED, member="other")
    await asyncio.gather(*(upload(files, BLUE, f"{number}.png") for number in range(5)))
    assert len(cloud.sent) == 2


async def test_members_do_not_see_each_others_files(files: Files) -> None:
    await upload(files, RED, member="ann")
    await upload(files, BLUE, member="bob")
    assert await bytes_of(files, await record_of(files, member="ann")) == RED
    assert await bytes_of(files, await record_of(files, member="bob")) == BLUE
    assert list(await files.namespace.listing("cid", "input")) == []
    assert await loaded(files, "cat.png", member="cid") == "cat.png"


async def test_uploads_of_one_name_at_once_do_not_meet(files: Files) -> None:
    pictures = [png(colour=(number, 0, 0)) for number in range(8)]
    names = await asyncio.gather(*(upload(files, picture) for picture in pictures))
    assert sorted(names) == sorted(["cat.png", *(f"cat ({n}).png" for n in range(1, 8))])
    for name, picture in zip(names, pictures, strict=True):
        assert await bytes_of(files, await record_of(files, name)) == picture


async def test_a_name_that_is_an_output_is_compared_by_content(
    files: Files, cloud: MemoryCloud
) -> None:
    cloud.contents["opaque.png"] = RED
    await output_of(files, "opaque.png", display_name="a.png")
    assert await upload(files, RED, "a.png", type="output") == "a.png"
    assert await upload(files, BLUE, "a.png", type="output") == "a (1).png"


@pytest.mark.parametrize(
    ("filename", "options"),
    [
        ("../../evil.png", {}),
        ("a.png", {"subfolder": "../x"}),
        ("a.png", {"subfolder": "/x"}),
        ("a.png", {"type": "bogus"}),
        ("", {}),
        (".", {}),
        ("sub", {}),
        ("cat.png/x.png", {}),
        ("x.png", {"subfolder": "cat.png"}),
        ("missing/a.png", {}),
        ("a\0b.png", {}),
        ("x" * 300, {}),
        ("\ud800.png", {}),
    ],
)
async def test_names_that_cannot_be_are_refused(
    files: Files, cloud: MemoryCloud, filename: str, options: dict[str, Any]
) -> None:
    await upload(files, RED)
    await upload(files, RED, subfolder="sub")
    with pytest.raises(LocalError) as refusal:
        await upload(files, BLUE, filename, **options)
    assert refusal.value.kind == "invalid"
    assert len(cloud.sent) == 1
    assert len(await files.namespace.listing("local", "input")) == 2


async def test_a_folder_in_the_name_must_be_there(files: Files) -> None:
    await upload(files, RED, subfolder="sub")
    assert await upload(files, BLUE, "sub/cat.png") == "sub/cat (1).png"
    assert await upload(files, RED, "../cat.png", subfolder="sub") == "../cat.png"
    assert list(await files.namespace.listing("local", "input")) == [
        "cat.png",
        "sub/cat (1).png",
        "sub/cat.png",
    ]


@pytest.mark.parametrize("member", ["../..", "a/b", "ä %2F", ""])
async def test_any_member_name_is_one_member(open_files: OpenFiles, member: str) -> None:
    await upload(await open_files(), RED, member=member)
    files = await open_files()
    assert list(await files.namespace.listing(member, "input")) == ["cat.png"]
    assert list(await files.namespace.listing("a", "input")) == []


async def test_find_takes_hostile_names(files: Files) -> None:
    await upload(files, RED, subfolder="sub")
    assert await files.find("local", "input", "./sub/../sub/", "cat.png") is not None
    assert await files.find("local", "input", "sub\\", "cat.png") is not None
    for type_, subfolder, filename in (
        ("bogus", "sub", "cat.png"),
        ("input", "..", "cat.png"),
        ("input", "sub", "../../x"),
        ("input", "sub", ""),
        ("input", "", "sub"),
        ("output", "sub", "cat.png"),
    ):
        assert await files.find("local", type_, subfolder, filename) is None


def picture_of(width: int, height: int) -> bytes:
    target = io.BytesIO()
    Image.new("1", (width, height)).save(target, format="PNG")
    return target.getvalue()


@pytest.mark.parametrize(
    ("size", "messages"),
    [
        ((16385, 1), "16385 x 1 pixels"),
        ((1, 16385), "1 x 16385 pixels"),
        ((8193, 8192), "more than 67108864 pixels"),
        ((20000, 20000), "more than 67108864 pixels"),
    ],
)
async def test_pictures_beyond_the_clouds_limits_are_refused_with_the_limit(
    files: Files, cloud: MemoryCloud, size: tuple[int, int], messages: str
) -> None:
    with pytest.raises(LocalError, match="16384 pixels along an edge and 67108864") as refusal:
        await upload(files, picture_of(*size))
    assert refusal.value.kind == "invalid"
    assert refusal.value.message.startswith(f"cat.png has {messages}; ")
    assert cloud.sent == []


@pytest.mark.parametrize("size", [(16384, 1), (8192, 8192)])
async def test_pictures_at_the_limits_are_taken(files: Files, size: tuple[int, int]) -> None:
    assert await upload(files, picture_of(*size)) == "cat.png"


async def test_a_file_beyond_the_limit_is_refused_while_it_comes(
    files: Files, cloud: MemoryCloud, tmp_path: Path
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(LocalError, match="191 MiB") as refusal:
        await files.upload("local", endless(), filename="a.mp4")
    assert refusal.value.kind == "too_large"
    assert sent <= uploads.MAX_BYTES + (2 << 20)
    assert cloud.sent == []
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


async def test_memory_stays_flat_while_a_file_comes(files: Files) -> None:
    async def long() -> AsyncIterator[bytes]:
        for number in range(40):
            yield number.to_bytes(4, "big") * (1 << 18)

    class Thrifty(MemoryCloud):
        async def upload(self, path: Path, *, filename: str, **_: Any) -> str:
            return "opaque"

    files.library.clouds = {"default": Thrifty()}
    await upload(files, b"no picture", "first.bin")  # Pillow loads all its formats for it: 7 MB
    tracemalloc.start()
    await files.upload("local", long(), filename="a.bin")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


async def test_an_upload_whose_client_leaves_is_nothing(
    files: Files, cloud: MemoryCloud, tmp_path: Path
) -> None:
    async def leaving() -> AsyncIterator[bytes]:
        yield RED
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await files.upload("local", leaving(), filename="cat.png")
    assert list(await files.namespace.listing("local", "input")) == cloud.sent == []
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "filename", "status", "words"),
    [
        (CloudRefused("", 400, {"code": "X", "message": "bad file"}), "a.png", 400, "bad file"),
        (CloudRefused("", 413, "too much"), "a.png", 413, "too much"),
        (CloudRefused("", 415, {"message": "no"}), "a.mp3", 400, "may not accept audio"),
        (CloudRefused("", 400, {"message": "no"}), "a.mp4", 400, "may not accept videos"),
        (CloudRefused("", 503, {}), "a.png", 503, "try again"),
        (CloudUnauthorized("", 401, {}), "a.png", 503, "API key"),
        (CloudUnreachable("no route"), "a.png", 503, "network"),
    ],
)
async def test_what_the_cloud_does_not_take_is_named_in_the_error(
    files: Files, cloud: MemoryCloud, error: Exception, filename: str, status: int, words: str
) -> None:
    cloud.refuse = error
    with pytest.raises(LocalError, match=words) as refusal:
        await upload(files, RED, filename)
    assert bodies.status_of(refusal.value) == status
    assert list(await files.namespace.listing("local", "input")) == []
    cloud.refuse = None
    assert await upload(files, RED, filename) == filename


async def test_a_name_that_cannot_be_stored_is_not_given(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr("proxy.files.namespace.Namespace.claim", full)
    with pytest.raises(StorageError):
        await upload(files, RED)
    assert list(await files.namespace.listing("local", "input")) == []


async def test_a_full_disk_is_an_error_for_the_uploader(files: Files, tmp_path: Path) -> None:
    (tmp_path / "cache" / "partial").rmdir()
    with pytest.raises(LocalError, match="cannot write to its cache") as refusal:
        await upload(files, RED)
    assert refusal.value.kind == "unavailable"


async def test_an_evicted_upload_comes_back_from_the_cloud(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    files = await open_files(cache_bytes=0)
    await upload(files, RED)
    assert await bytes_of(files, await record_of(files)) == RED
    assert len(cloud.fetched) == 1


@pytest.mark.parametrize("names", ["extension", "bare", "prefixed", "upper"])
async def test_any_form_of_the_clouds_names(
    open_files: OpenFiles, client: CloudClient, simulator: Simulator, names: Any
) -> None:
    simulator.switches.upload_names = names
    files = await open_files(client, cache_bytes=0)
    await upload(files, RED)
    assert await bytes_of(files, await record_of(files)) == RED
    assert await loaded(files, "cat.png") == (await record_of(files)).cloud_name


async def test_names_that_look_like_other_hashes_are_opaque(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    class Odd(MemoryCloud):
        def add(self, data: bytes, extension: str = ".png") -> str:
            name = data[-20:].hex().ljust(64, "0") + extension
            self.contents[name] = data
            return name

    odd = Odd()
    files = await open_files(odd, cache_bytes=0)
    await upload(files, RED)
    assert await bytes_of(files, await record_of(files)) == RED
    name = odd.add(BLUE)
    for _ in range(2):
        found = await output_of(files, name)
        assert found.path == "ComfyUI_00001_.png"
        assert await bytes_of(files, found) == BLUE
        files = await open_files(odd, cache_bytes=0)


async def test_names_that_the_probe_found_to_be_no_hashes_are_opaque(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    cloud.observations.facts["upload_hash"] = "another"
    name = "0" * 64 + ".png"
    cloud.contents[name] = RED
    files = await open_files()
    assert await bytes_of(files, await output_of(files, name)) == RED


async def test_another_cloud_is_sent_what_a_graph_names(
    open_files: OpenFiles, cloud: MemoryCloud
) -> None:
    files = await open_files()
    await upload(files, RED)
    await upload(files, BLUE, "dog.png")
    other = MemoryCloud(base_url=URL("http://other"))
    files = await open_files(other)
    await loaded(files, "cat.png")
    await loaded(files, "cat.png")
    assert other.sent == ["cat.png"]
    assert await loaded(files, "cat.png") in other.contents
    assert await bytes_of(files, await record_of(files)) == RED
    assert await upload(files, BLUE, "dog.png") == "dog.png"
    assert other.sent == ["cat.png", "dog.png"]
    files = await open_files()
    await loaded(files, "cat.png")
    assert cloud.sent == ["cat.png", "dog.png"]


async def test_an_upload_that_no_cache_has_cannot_be_sent_on(open_files: OpenFiles) -> None:
    await upload(await open_files(cache_bytes=0), RED)
    other = MemoryCloud(base_url=URL("http://other"))
    files = await open_files(other, cache_bytes=0)
    await loaded(files, "cat.png")
    assert other.sent == []


async def test_errors_show_the_members_names(files: Files) -> None:
    await upload(files, RED, subfolder="sub")
    record = await record_of(files, "sub/cat.png")
    error = {"message": f"Invalid image file: {record.cloud_name}", "inputs": [record.cloud_name]}
    assert await files.reveal("local", error) == {
        "message": "Invalid image file: sub/cat.png",
        "inputs": ["sub/cat.png"],
    }
    assert await files.reveal("other", error) == error


async def test_a_text_that_is_what_the_account_calls_a_file_stays(
    files: Files, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "add", lambda *_: "cat.png")
    await upload(files, RED, "cat.png")
    await upload(files, RED, "copy.png")
    assert await files.reveal("local", "no cat.png") == "no copy.png"
    node = OutputNode("local", "job", "9", None, "default")
    assert await files.outputs.localise(node, {"text": ["cat.png"]}) == {"text": ["cat.png"]}


async def test_a_conversion_is_made_once_and_kept(
    open_files: OpenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await open_files()
    await upload(files, RED)
    record = await record_of(files)
    made = await asyncio.gather(*(files.convert(record, WEBP) for _ in range(5)))
    assert len(set(made)) == 1

    def no_more(*_: object) -> None:
        raise AssertionError("it is made already")

    monkeypatch.setattr(PictureWorkers, "convert", no_more)
    files = await open_files()
    assert await files.convert(record, WEBP) == made[0]


async def test_a_decompression_bomb_is_not_unpacked(files: Files, cloud: MemoryCloud) -> None:
    record = await output_of(files, cloud.add(picture_of(8192, 8193)))
    with pytest.raises(LocalError, match="more than 67108864 pix") as refusal:
        await files.convert(record, WEBP)
    assert (refusal.value.kind, refusal.value.type) == ("invalid", "image_too_large")


async def mask(files: Files, data: bytes, name: str = "mask.png", **options: Any) -> str:
    options.setdefault("original", {"filename": "cat.png", "type": "input"})
    return await upload(files, data, name, **options)


ALPHA = png(colour=(0, 0, 0, 77), mode="RGBA")


async def test_a_mask_keeps_the_workflow_of_its_picture(files: Files) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("prompt", '{"1": {}}')
    target = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(target, format="PNG", pnginfo=notes)
    await upload(files, target.getvalue())
    assert await mask(files, ALPHA) == "mask.png"
    made = await bytes_of(files, await record_of(files, "mask.png"))
    with Image.open(io.BytesIO(made)) as picture:
        assert picture.text == {"prompt": '{"1": {}}'}  # type: ignore[attr-defined]
        assert picture.getpixel((0, 0)) == (1, 2, 3, 77)


async def test_a_mask_in_another_format_and_from_a_subfolder(files: Files) -> None:
    await upload(files, RED, subfolder="sub")
    for number, original in enumerate(
        [
            {"filename": "cat.png", "subfolder": "sub", "type": "input"},
            {"filename": "sub/cat.png [input]", "type": "output"},
        ]
    ):
        name = f"{number}.webp"
        assert await mask(files, ALPHA, name, original=original) == name
        made = await bytes_of(files, await record_of(files, name))
        assert pixels(made)[:2] == ("RGBA", (8, 6))


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.txt"])
async def test_a_mask_needs_a_format_with_alpha(files: Files, name: str) -> None:
    await upload(files, RED)
    with pytest.raises(LocalError) as refusal:
        await mask(files, ALPHA, name)
    assert refusal.value.kind == "invalid"
    assert list(await files.namespace.listing("local", "input")) == ["cat.png"]


@pytest.mark.parametrize(
    ("original", "kind"),
    [
        ({"filename": "/cat.png"}, "invalid"),
        ({"filename": "../cat.png"}, "invalid"),
        ({"filename": "cat.png", "type": "odd"}, "invalid"),
        ({"filename": "cat.png", "subfolder": "../../up"}, "forbidden"),
        ({"filename": "dog.png"}, "not_found"),
    ],
)
async def test_a_mask_of_what_is_no_picture_is_refused(
    files: Files, original: Any, kind: str
) -> None:
    await upload(files, RED)
    with pytest.raises(LocalError, match="original_ref") as refusal:
        await mask(files, ALPHA, "mask.png", original={"type": "input", **original})
    assert (refusal.value.type, refusal.value.kind) == ("invalid_original_ref", kind)
    assert list(await files.namespace.listing("local", "input")) == ["cat.png"]


@pytest.mark.parametrize("original", [{}, {"filename": 3}, {"filename": "a", "subfolder": None}])
async def test_an_original_without_a_name_is_refused(files: Files, original: Any) -> None:
    with pytest.raises(LocalError, match="original_ref") as refusal:
        await mask(files, ALPHA, original=original)
    assert refusal.value.kind == "invalid"


async def test_a_mask_that_lies_there_already_is_not_composed(
    files: Files, cloud: MemoryCloud
) -> None:
    await upload(files, ALPHA, "mask.png")
    await upload(files, RED)
    assert await mask(files, ALPHA) == "mask.png"
    assert cloud.sent == ["mask.png", "cat.png"]
    assert await mask(files, ALPHA, overwrite=True) == "mask.png"
    assert pixels(await bytes_of(files, await record_of(files, "mask.png")))[0] == "RGBA"
