"""`/view` and the uploads on the wire."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import FormData, MultipartWriter
from aiohttp.test_utils import TestClient

from proxy.api.downloads import file_headers
from proxy.files.library import ContentBrokenError

Client = TestClient[Any, Any]

LETTERS = b"abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("path", ["/view", "/api/view"])
async def test_a_file_comes_with_the_headers_of_a_local_one(
    client: Client, room_of_files: Any, path: str
) -> None:
    room_of_files.add("out.png")
    response = await client.get(path, params={"filename": "out.png"})
    assert (response.status, await response.read()) == (200, LETTERS)
    shown = {
        key: response.headers[key] for key in response.headers if key not in ("Date", "Server")
    }
    assert shown == {
        "Content-Disposition": 'filename="out.png"',
        "Content-Type": "image/png",
        "X-Content-Type-Options": "nosniff",
        "Etag": '"17a668b730013200-1a"',
        "Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT",
        "Content-Length": "26",
        "Accept-Ranges": "bytes",
    }
    await room_of_files.opened[0].closed.wait()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("filename=", 400),
        ("filename=nope.png", 404),
        ("filename=out.png&type=bogus", 400),
        ("filename=out.png&type=", 400),
        ("filename=../out.png", 400),
        ("filename=%2Fetc%2Fpasswd", 400),
        ("filename=two..dots.png", 400),
        ("filename=%5Binput%5D", 400),
        ("filename=out.png&subfolder=..", 403),
        ("filename=out.png&subfolder=/etc", 403),
        ("filename=out.png&subfolder=nope", 404),
        ("filename=out.png%5Boutput%5D", 404),
        ("filename=a%00b.png", 404),
        ("filename=%FF%FE.png", 404),
        (f"filename={'x' * 300}", 404),
        (f"filename=blake3:{'0' * 64}", 404),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_refusal_has_no_body(
    client: Client, room_of_files: Any, method: str, query: str, status: int
) -> None:
    room_of_files.add("out.png")
    response = await client.request(method, f"/view?{query}")
    assert (response.status, await response.read()) == (status, b"")
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize(
    "query",
    [
        "filename=rgb.png&type=input",
        "filename=rgb.png%20%5Binput%5D&type=output",
        "filename=sub/rgb.png&type=input",
        "filename=rgb.png&type=input&subfolder=../input&rand=0.1&t=5&channel=rgba",
    ],
)
async def test_a_file_is_found_in_every_way_of_asking(
    client: Client, room_of_files: Any, query: str
) -> None:
    room_of_files.add("rgb.png", type_="input")
    assert (await client.get(f"/view?{query}")).status == 200


async def test_a_range_is_a_part(client: Client, room_of_files: Any) -> None:
    room_of_files.add("letters.txt")
    params, headers = {"filename": "letters.txt"}, {"Range": "bytes=2-4"}
    response = await client.get("/view", params=params, headers=headers)
    assert (response.status, await response.text()) == (206, "cde")
    assert response.headers["Content-Range"] == "bytes 2-4/26"
    assert response.headers["Content-Length"] == "3"


async def test_a_range_outside_is_416(client: Client, room_of_files: Any) -> None:
    room_of_files.add("letters.txt")
    params, headers = {"filename": "letters.txt"}, {"Range": "bytes=26-"}
    response = await client.get("/view", params=params, headers=headers)
    assert (response.status, await response.read()) == (416, b"")
    assert response.headers["Content-Range"] == "bytes */26"
    assert "Etag" not in response.headers


async def test_what_the_client_has_is_not_sent_again(client: Client, room_of_files: Any) -> None:
    room_of_files.add("out.png")
    params = {"filename": "out.png"}
    tag = (await client.get("/view", params=params)).headers["Etag"]
    response = await client.get("/view", params=params, headers={"If-None-Match": tag})
    assert (response.status, await response.read(), response.headers["Etag"]) == (304, b"", tag)
    assert len(room_of_files.opened) == 1


async def test_head_tells_the_size_of_an_output_with_its_local_names(
    client: Client, room_of_files: Any
) -> None:
    record = room_of_files.add("out.png")
    room_of_files.records["output", "", "out.png"] = replace(record, cloud_type="output")
    room_of_files.contents["out.png"].size = 30
    response = await client.head("/view", params={"filename": "out.png"})
    assert (response.status, response.headers["Content-Length"]) == (200, "30")


async def test_head_tells_the_size_without_opening_the_file(
    client: Client, room_of_files: Any
) -> None:
    room_of_files.add("out.png")
    response = await client.head("/view", params={"filename": "out.png"})
    assert (response.status, response.headers["Content-Length"]) == (200, "26")
    assert not room_of_files.opened


async def test_an_empty_file_is_empty(client: Client, room_of_files: Any) -> None:
    room_of_files.add("empty.bin", b"")
    response = await client.get("/view", params={"filename": "empty.bin"})
    assert (response.status, await response.read()) == (200, b"")
    assert response.headers["Content-Type"] == "application/octet-stream"


async def test_a_large_file_is_whole(client: Client, room_of_files: Any) -> None:
    data = bytes(range(256)) * 20_000
    room_of_files.add("big.bin", data)
    assert await (await client.get("/view", params={"filename": "big.bin"})).read() == data


@pytest.mark.parametrize("size", [6, None])
async def test_a_file_is_passed_on_while_it_arrives(
    client: Client, room_of_files: Any, size: int | None
) -> None:
    room_of_files.add_arriving("new.png", b"abc", b"def", size=size)
    response = await client.get("/view", params={"filename": "new.png"})
    assert (response.status, await response.read()) == (200, b"abcdef")
    assert response.headers.get("Content-Length") == (None if size is None else "6")


@pytest.mark.parametrize("size", [6, None])
async def test_a_file_that_breaks_off_is_not_taken_for_whole(
    client: Client, room_of_files: Any, size: int | None
) -> None:
    room_of_files.add_arriving("new.png", b"abc", ContentBrokenError("gone"), size=size)
    response = await client.get("/view", params={"filename": "new.png"})
    with pytest.raises(Exception, match=r"payload|reset|Connection"):
        await response.read()
    await room_of_files.opened[0].closed.wait()


async def test_a_client_that_leaves_in_the_middle_leaves_no_trace(
    client: Client, room_of_files: Any, caplog: Any
) -> None:
    room_of_files.add("big.bin", bytes(64 * 1024 * 1024))
    with structlog.testing.capture_logs() as logs:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"GET /view?filename=big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        writer.transport.abort()
        await room_of_files.opened[0].closed.wait()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [line for line in logs if line["log_level"] in ("warning", "error")]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("preview=webp;75", ("webp;75", None)),
        ("preview=", ("", None)),
        ("preview=jpeg&channel=rgb", ("jpeg", "rgb")),
        ("channel=rgb", (None, "rgb")),
        ("channel=a", (None, "a")),
    ],
)
async def test_a_picture_is_made_of_it(
    client: Client, room_of_files: Any, query: str, asked: Any
) -> None:
    room_of_files.add("out.png")
    response = await client.get(f"/view?filename=out.png&{query}", headers={"Range": "bytes=0-1"})
    assert (response.status, await response.read()) == (200, b"picture")
    assert room_of_files.conversions == [asked]
    assert response.headers["Content-Type"] == "image/webp"
    assert response.headers["Content-Disposition"] == 'filename="out.png"'
    assert not {"Etag", "Last-Modified", "Accept-Ranges"} & set(response.headers)


@pytest.mark.parametrize("channel", ["rgba", "", "junk", "RGB"])
async def test_another_channel_is_the_file(
    client: Client, room_of_files: Any, channel: str
) -> None:
    room_of_files.add("out.png")
    response = await client.get("/view", params={"filename": "out.png", "channel": channel})
    assert await response.read() == LETTERS


@pytest.mark.parametrize("name", ["p.html", "p.xhtml", "s.js", "m.mjs", "s.css", "d.xml", "v.svg"])
def test_what_a_browser_would_run_is_an_attachment(name: str) -> None:
    assert file_headers(name, None) == {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Sec-Fetch-Dest",
        "Cache-Control": "no-store",
    }


def test_an_svg_in_an_img_is_a_picture() -> None:
    headers = file_headers("v.svg", "image")
    assert headers["Content-Type"] == "image/svg+xml"
    assert headers["Content-Disposition"] == 'filename="v.svg"'
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('quote"d.png', 'filename="quote\\"d.png"'),
        ("hé 世.png", 'filename="hé 世.png"'),
        ("a\r\nX: y.png", 'filename="a__X: y.png"'),
        ("\udcff.png", 'filename="?.png"'),
    ],
)
def test_a_name_cannot_break_out_of_its_header(name: str, shown: str) -> None:
    assert file_headers(name, None)["Content-Disposition"] == shown


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
    assert room_of_files.uploads == [
        {
            "data": b"picture",
            "filename": "up.png",
            "subfolder": "",
            "type": "input",
            "overwrite": False,
        }
    ]


@pytest.mark.parametrize("file_first", [True, False])
async def test_the_fields_come_in_any_order(
    client: Client, room_of_files: Any, file_first: bool
) -> None:
    fields = ("subfolder", "a b"), ("type", "temp"), ("overwrite", "true")
    response = await client.post("/upload/image", data=form(*fields, first=file_first))
    assert await response.json() == {"name": "up.png", "subfolder": "a b", "type": "temp"}
    assert room_of_files.uploads[0]["overwrite"]


@pytest.mark.parametrize(
    ("overwrite", "expected"),
    [("true", True), ("1", True), ("True", False), ("false", False), ("", False), ("yes", False)],
)
async def test_overwrite_is_true_or_1(
    client: Client, room_of_files: Any, overwrite: str, expected: bool
) -> None:
    await client.post("/upload/image", data=form(("overwrite", overwrite)))
    assert room_of_files.uploads[0]["overwrite"] is expected


async def test_overwrite_as_a_file_part_does_no_harm(client: Client, room_of_files: Any) -> None:
    data = form()
    data.add_field("overwrite", b"true", filename="overwrite")
    assert (await client.post("/upload/image", data=data)).status == 200
    assert not room_of_files.uploads[0]["overwrite"]


async def test_the_first_of_two_files_counts(client: Client, room_of_files: Any) -> None:
    data = form(file="first.png")
    data.add_field("image", b"other", filename="second.png")
    await client.post("/upload/image", data=data)
    assert [upload["filename"] for upload in room_of_files.uploads] == ["first.png"]


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
    assert (response.status, await response.read(), room_of_files.uploads) == (400, b"", [])


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
    assert (response.status, room_of_files.uploads) == (400, [])


async def test_a_form_without_a_boundary_is_400(client: Client) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    assert (await client.post("/upload/image", data=b"x", headers=headers)).status == 400


async def test_an_upload_over_the_limit_is_413(serve: Any, room_of_files: Any) -> None:
    client = await serve(max_upload_bytes=10486)
    data = FormData()
    data.add_field("image", bytes(20_000), filename="big.bin")
    response = await client.post("/upload/image", data=data)
    assert (response.status, await response.text(), room_of_files.uploads) == (
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
    assert len(room_of_files.uploads[0]["data"]) == 8 * 1024 * 1024


async def test_a_mask_names_its_picture(client: Client, room_of_files: Any) -> None:
    original = {"filename": "rgb.png", "type": "input"}
    response = await client.post(
        "/upload/mask",
        data=form(("original_ref", json.dumps(original)), ("subfolder", "clipspace")),
    )
    assert (await response.json())["subfolder"] == "clipspace"
    assert room_of_files.uploads[0]["original"] == original


@pytest.mark.parametrize(
    "reference", [None, "{oops", "[]", "null", "{}", '{"type": "input"}', '{"filename": 5}']
)
async def test_a_mask_without_a_picture_is_400_in_words(
    client: Client, room_of_files: Any, reference: str | None
) -> None:
    fields = [] if reference is None else [("original_ref", reference)]
    response = await client.post("/upload/mask", data=form(*fields))
    assert (await response.json())["error"]["type"] == "invalid_original_ref"
    assert (response.status, room_of_files.uploads) == (400, [])


async def test_a_client_that_reads_late_gets_the_whole_file(
    client: Client, room_of_files: Any
) -> None:
    data = bytes(range(256)) * 100_000
    room_of_files.add("big.bin", data)
    async with client.get("/view", params={"filename": "big.bin"}) as response:
        first = await response.content.readexactly(1)
        assert first + await response.read() == data
