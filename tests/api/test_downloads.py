"""`/view`: what is sent, and the conditions and ranges of a request for a file."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient, make_mocked_request
from msgspec.structs import replace

from proxy.api.downloads import Part, Stamp, decide
from proxy.api.keys import ACCOUNTING
from proxy.files.contents import ContentBrokenError
from proxy.files.conversions import Conversion
from proxy.translate.errors import LocalError

Client = TestClient[Any, Any]
LETTERS = b"abcdefghijklmnopqrstuvwxyz"

#: 26 bytes, written 2024-01-02 03:04:05.5 UTC
FILE = Stamp(26, 1704164645.5)
DATE = "Tue, 02 Jan 2024 03:04:06 GMT"
EARLIER = "Tue, 02 Jan 2024 03:04:05 GMT"
TAG = FILE.etag


def part(**headers: str) -> Part:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return decide(make_mocked_request("GET", "/view", headers=named), FILE)


def test_the_stamp_looks_like_that_of_a_file_on_disk() -> None:
    assert (FILE.etag, FILE.last_modified) == ("17a668b74dce9700-1a", DATE)


def test_without_a_condition_the_whole_is_sent() -> None:
    assert part() == Part(200, 0, 26)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-3", Part(206, 0, 4)),
        ("bytes=5-", Part(206, 5, 26)),
        ("bytes=-4", Part(206, 22, 26)),
        ("bytes=-400", Part(206, 0, 26)),
        ("bytes=-0", Part(206, 0, 26)),
        ("bytes=20-400", Part(206, 20, 26)),
        ("bytes=25-25", Part(206, 25, 26)),
    ],
)
def test_a_range_is_cut_out(wanted: str, expected: Part) -> None:
    assert part(Range=wanted) == expected


@pytest.mark.parametrize("wanted", ["bytes=26-", "bytes=5-2", "bytes=0-1,3-4", "bytes=", "x=1-2"])
def test_a_range_that_cannot_be_had_is_not_satisfiable(wanted: str) -> None:
    assert part(Range=wanted).status == 416


def test_nothing_can_be_cut_out_of_an_empty_file() -> None:
    request = make_mocked_request("GET", "/", headers={"Range": "bytes=0-"})
    assert decide(request, Stamp(0, 0.0)).status == 416


@pytest.mark.parametrize("tags", [f'"{TAG}"', f'W/"{TAG}"', f'"x", "{TAG}"', "*"])
def test_a_client_that_has_the_version_gets_304(tags: str) -> None:
    assert part(If_None_Match=tags).status == 304


def test_another_tag_wins_over_the_date() -> None:
    assert part(If_None_Match='"x"', If_Modified_Since=DATE).status == 200


@pytest.mark.parametrize(("since", "status"), [(DATE, 304), (EARLIER, 200), ("junk", 200)])
def test_a_date_says_whether_it_was_written_since(since: str, status: int) -> None:
    assert part(If_Modified_Since=since).status == status


@pytest.mark.parametrize(
    ("tags", "status"), [(f'"{TAG}"', 200), (f'W/"{TAG}"', 412), ('"x"', 412), ("*", 200)]
)
def test_if_match_wants_the_version(tags: str, status: int) -> None:
    assert part(If_Match=tags).status == status


@pytest.mark.parametrize(("since", "status"), [(DATE, 200), (EARLIER, 412)])
def test_if_unmodified_since_wants_an_old_version(since: str, status: int) -> None:
    assert part(If_Unmodified_Since=since).status == status


@pytest.mark.parametrize(("condition", "status"), [(DATE, 206), (EARLIER, 200), ('"another"', 206)])
def test_if_range_looks_at_dates_alone(condition: str, status: int) -> None:
    assert part(Range="bytes=0-3", If_Range=condition).status == status


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
        "Cache-Control": "no-cache",
        "Content-Disposition": 'filename="out.png"',
        "Content-Type": "image/png",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
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
    used = await client.server.app[ACCOUNTING].usage.today("local")
    assert used.bytes_down < 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("preview=webp;75", Conversion("webp", "", 75)),
        ("preview=", Conversion("webp", "", 90)),
        ("preview=jpeg&channel=rgb", Conversion("jpeg", "rgb", 90)),
        ("channel=rgb", Conversion("png", "rgb")),
        ("channel=a", Conversion("png", "a")),
    ],
)
async def test_a_picture_is_made_of_it(
    client: Client, room_of_files: Any, query: str, asked: Conversion
) -> None:
    room_of_files.add("out.png")
    response = await client.get(f"/view?filename=out.png&{query}", headers={"Range": "bytes=0-1"})
    assert (response.status, await response.read()) == (200, b"picture")
    assert room_of_files.conversions == [asked]
    assert response.headers["Content-Type"] == f"image/{asked.format}"
    assert response.headers["Content-Disposition"] == 'filename="out.png"'
    assert not {"Last-Modified", "Accept-Ranges"} & set(response.headers)


@pytest.mark.parametrize("channel", ["rgba", "", "junk", "RGB"])
async def test_another_channel_is_the_file(
    client: Client, room_of_files: Any, channel: str
) -> None:
    room_of_files.add("out.png")
    response = await client.get("/view", params={"filename": "out.png", "channel": channel})
    assert await response.read() == LETTERS


async def test_a_client_that_reads_late_gets_the_whole_file(
    client: Client, room_of_files: Any
) -> None:
    data = bytes(range(256)) * 100_000
    room_of_files.add("big.bin", data)
    async with client.get("/view", params={"filename": "big.bin"}) as response:
        first = await response.content.readexactly(1)
        assert first + await response.read() == data


async def test_a_view_is_a_redirect_for_who_sends_the_clouds_key(
    client: Client, room_of_files: Any
) -> None:
    room_of_files.add("a b.png", b"data")
    key = {"X-API-Key": "comfyui-something"}
    answer = await client.get(
        "/api/view?filename=a%20b.png&token=t", headers=key, allow_redirects=False
    )
    assert (answer.status, await answer.read()) == (302, b"")
    address = client.make_url("/view").with_query(filename="a b.png")
    assert answer.headers["Location"] == str(address)
    followed = await client.get("/api/view?filename=a%20b.png", headers=key)
    assert (followed.status, await followed.read()) == (200, b"data")


@pytest.mark.parametrize(("path", "key"), [("/view", "k"), ("/api/view", None)])
async def test_for_all_others_a_view_is_the_file(
    client: Client, room_of_files: Any, path: str, key: str | None
) -> None:
    room_of_files.add("a.png", b"data")
    headers = {"X-API-Key": key} if key else {}
    answer = await client.get(f"{path}?filename=a.png", headers=headers, allow_redirects=False)
    assert (answer.status, await answer.read()) == (200, b"data")


async def test_what_is_not_there_is_not_redirected_to(client: Client) -> None:
    answer = await client.get("/api/view?filename=nope.png", headers={"X-API-Key": "k"})
    assert answer.status == 404


async def test_a_picture_made_of_a_file_has_a_tag_of_its_own(
    client: Client, room_of_files: Any
) -> None:
    room_of_files.add("out.png")
    tags = {}
    for query in ("", "res=64", "res=32", "preview=webp;75", "preview=jpeg;75", "channel=a"):
        answer = await client.get(f"/view?filename=out.png&{query}")
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
        tags[query] = answer.headers["ETag"]
    assert len(set(tags.values())) == len(tags)
    room_of_files.conversions.clear()
    for query, tag in tags.items():
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            headers = {"If-None-Match": condition}
            known = await client.get(f"/view?filename=out.png&{query}", headers=headers)
            assert (known.status, await known.read()) == (304, b"")
            assert (known.headers["ETag"], known.headers["Cache-Control"]) == (tag, "no-cache")
        headers = {"If-None-Match": '"other"'}
        assert (await client.get(f"/view?filename=out.png&{query}", headers=headers)).status == 200
    assert len(room_of_files.conversions) == 5  # those that were answered with 200


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("res=64", Conversion("jpeg", "", 85, 64, upright=True)),
        ("res=64&preview=webp;75", Conversion("jpeg", "", 85, 64, upright=True)),
        ("res=64&channel=rgb", Conversion("png", "rgb")),
    ],
)
async def test_a_small_picture_is_asked_for(
    client: Client, room_of_files: Any, query: str, wanted: Conversion
) -> None:
    room_of_files.add("out.png")
    response = await client.get(f"/view?filename=out.png&{query}")
    assert (response.status, await response.read()) == (200, b"picture")
    assert room_of_files.conversions == [wanted]
    assert response.headers["Content-Type"] == wanted.media_type
    assert response.headers["Content-Disposition"] == 'filename="out.png"'


@pytest.mark.parametrize("query", ["res=0", "res=x", "res=64&channel=b"])
async def test_other_numbers_are_the_file(client: Client, room_of_files: Any, query: str) -> None:
    room_of_files.add("out.png")
    response = await client.get(f"/view?filename=out.png&{query}")
    assert await response.read() == LETTERS


async def test_what_cannot_be_made_small_is_sent_as_it_is(
    client: Client, room_of_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object, __: object) -> bytes:
        raise LocalError("invalid_image", "no picture")

    monkeypatch.setattr(room_of_files, "convert", refuse)
    room_of_files.add("out.png")
    response = await client.get("/view?filename=out.png&res=64")
    assert (response.status, await response.read()) == (200, LETTERS)
    assert response.headers["Content-Type"] == "image/png"
    assert (await client.get("/view?filename=out.png&preview=webp")).status == 400
