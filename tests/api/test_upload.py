"""Uploads on the wire."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, MultipartWriter
from aiohttp.test_utils import TestClient

Client = TestClient[Any, Any]


def form(*fields: tuple[str, Any], file: str | None = "up.png", first: bool = False) -> FormData:
    data = FormData(quote_fields=False)
    for name, value in fields if not first else ():
        data.add_field(name, value)
    if file is not None:
        data.add_field("image", b"picture", filename=file)
    for name, value in fields if first else ():
        data.add_field(name, value)
    if file is None and not fields:
        data.add_field("nothing", "")
    return data


@pytest.mark.parametrize("path", ["/upload/image", "/api/upload/image"])
async def test_a_file_is_taken(client: Client, room_of_files: Any, path: str) -> None:
    response = await client.post(path, data=form())
    assert await response.text() == '{"name": "up.png", "subfolder": "", "type": "input"}'
    assert room_of_files.uploaded == [
        {
            "data": b"picture",
            "filename": "up.png",
            "subfolder": "",
            "type": "input",
            "overwrite": False,
            "original": None,
        }
    ]


@pytest.mark.parametrize("file_first", [True, False])
async def test_the_fields_come_in_any_order(
    client: Client, room_of_files: Any, file_first: bool
) -> None:
    fields = ("subfolder", "a b"), ("type", "temp"), ("overwrite", "true")
    response = await client.post("/upload/image", data=form(*fields, first=file_first))
    assert await response.json() == {"name": "up.png", "subfolder": "a b", "type": "temp"}
    assert room_of_files.uploaded[0]["overwrite"]


@pytest.mark.parametrize(
    ("overwrite", "expected"),
    [("true", True), ("1", True), ("True", False), ("false", False), ("", False), ("yes", False)],
)
async def test_overwrite_is_true_or_1(
    client: Client, room_of_files: Any, overwrite: str, expected: bool
) -> None:
    await client.post("/upload/image", data=form(("overwrite", overwrite)))
    assert room_of_files.uploaded[0]["overwrite"] is expected


async def test_overwrite_as_a_file_part_does_no_harm(client: Client, room_of_files: Any) -> None:
    data = form()
    data.add_field("overwrite", b"true", filename="overwrite")
    assert (await client.post("/upload/image", data=data)).status == 200
    assert not room_of_files.uploaded[0]["overwrite"]


async def test_the_first_of_two_files_counts(client: Client, room_of_files: Any) -> None:
    data = form(file="first.png")
    data.add_field("image", b"other", filename="second.png")
    await client.post("/upload/image", data=data)
    assert [upload["filename"] for upload in room_of_files.uploaded] == ["first.png"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: form(file=None),
        lambda: form(("subfolder", "../..")),
        lambda: form(file="../../evil.png"),
        lambda: b"picture",
        lambda: b"",
    ],
)
@pytest.mark.parametrize("path", ["/upload/image", "/upload/mask"])
async def test_no_file_or_an_escape_is_400_without_a_body(
    client: Client, room_of_files: Any, path: str, make: Any
) -> None:
    response = await client.post(path, data=make())
    assert (response.status, await response.read(), room_of_files.uploaded) == (400, b"", [])


@pytest.mark.parametrize(
    ("fields", "type_"),
    [
        ([("type", "bogus")], "invalid_type"),
        ([("type", "")], "invalid_type"),
    ],
)
async def test_an_unknown_folder_is_400_in_words(
    client: Client, fields: list[tuple[str, str]], type_: str
) -> None:
    response = await client.post("/upload/image", data=form(*fields))
    assert (response.status, (await response.json())["error"]["type"]) == (400, type_)


async def test_text_in_place_of_a_file_is_400_in_words(client: Client) -> None:
    response = await client.post("/upload/image", data=form(("image", "text"), file=None))
    assert (response.status, (await response.json())["error"]["type"]) == (400, "invalid_image")


@pytest.mark.parametrize(
    "body",
    [b"", b"junk", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--"],
)
async def test_a_broken_form_is_400(client: Client, room_of_files: Any, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = await client.post("/upload/image", data=body, headers=headers)
    assert (response.status, room_of_files.uploaded) == (400, [])


async def test_a_form_without_a_boundary_is_400(client: Client) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    assert (await client.post("/upload/image", data=b"x", headers=headers)).status == 400


async def test_an_upload_over_the_limit_is_413(serve: Any, room_of_files: Any) -> None:
    client = await serve(max_upload_bytes=10486)
    data = FormData()
    data.add_field("image", bytes(20_000), filename="big.bin")
    response = await client.post("/upload/image", data=data)
    assert (response.status, await response.text(), room_of_files.uploaded) == (
        413,
        "Maximum request body size 10486 exceeded.",
        [],
    )


async def test_a_large_upload_does_not_stay_in_memory(
    client: Client, room_of_files: Any, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    with big.open("rb") as file, MultipartWriter("form-data") as writer:
        part = writer.append(file)
        part.set_content_disposition("form-data", name="image", filename="big.bin")
        assert (await client.post("/upload/image", data=writer)).status == 200
    assert len(room_of_files.uploaded[0]["data"]) == 8 * 1024 * 1024


async def test_a_mask_names_its_picture(client: Client, room_of_files: Any) -> None:
    original = {"filename": "rgb.png", "type": "input"}
    response = await client.post(
        "/upload/mask",
        data=form(("original_ref", json.dumps(original)), ("subfolder", "clipspace")),
    )
    assert (await response.json())["subfolder"] == "clipspace"
    assert room_of_files.uploaded[0]["original"] == original


@pytest.mark.parametrize(
    "reference", [None, "{oops", "[]", "null", "{}", '{"type": "input"}', '{"filename": 5}']
)
async def test_a_mask_without_a_picture_is_400_in_words(
    client: Client, room_of_files: Any, reference: str | None
) -> None:
    fields = [] if reference is None else [("original_ref", reference)]
    response = await client.post("/upload/mask", data=form(*fields))
    assert (await response.json())["error"]["type"] == "invalid_original_ref"
    assert (response.status, room_of_files.uploaded) == (400, [])


def test_dispositions_that_nobody_understands_are_not_repeated_on_standard_error() -> None:
    warn = "warnings.warn(aiohttp.BadContentDispositionHeader('of a client'))"
    code = f"import proxy.api.upload, aiohttp, warnings; {warn}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ended.stderr == b""
