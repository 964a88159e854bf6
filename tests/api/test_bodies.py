"""Bodies: what they may hold, how large they may get, and when they are unpacked."""

from __future__ import annotations

import gzip
import sys
import threading
import zlib
from typing import Any

import aiohttp
import pytest

from proxy.api import bodies

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1024 * 1024
GRAPH = {"prompt": {"1": {"class_type": "EmptyImage", "inputs": {}}}}


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_deep_json_is_refused_before_anything_walks_through_it() -> None:
    with pytest.raises(bodies.NotJsonError) as raised:
        bodies.parse(nested(400), None)
    assert "300 levels" in raised.value.details


def test_wide_json_is_not_deep() -> None:
    wide = b"[" + b",".join([b"[{}]"] * 1000) + b"]"
    assert len(bodies.parse(wide, None)) == 1000


def test_as_deep_as_people_write_is_taken() -> None:
    bodies.parse(nested(250), None)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'"a"'])
def test_more_values_than_any_workflow_has_are_refused_before_they_are_made(
    value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: object) -> None:
        raise AssertionError("the values were made")

    monkeypatch.setattr("proxy.translate.codec.loads", forbidden)
    many = b"[" + b",".join([value] * (bodies.MOST_VALUES + 1)) + b"]"
    with pytest.raises(bodies.LocalError) as raised:
        bodies.parse(many, None)
    assert (raised.value.kind, raised.value.type) == ("too_large", "too_many_values")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "bare deflate", "zstd"])
async def test_a_packed_body_is_unpacked(client: Any, coding: str) -> None:
    body = b'{"prompt": {"1": {"class_type": "A", "inputs": {"text": "' + b"x" * MIB + b'"}}}}'
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "bare deflate": raw.compress(body) + raw.flush(),
        "zstd": zstd.compress(body),
    }[coding]
    headers = {"Content-Encoding": coding.removeprefix("bare ")}
    response = await client.post("/prompt", data=packed, headers=headers)
    assert response.status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br"])
async def test_what_is_packed_otherwise_is_400(client: Any, coding: str) -> None:
    headers = {"Content-Encoding": coding}
    response = await client.post("/prompt", data=b"{}" * 100, headers=headers)
    assert (response.status, (await response.json())["error"]["type"]) == (
        400,
        "invalid_content_encoding",
    )


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_json_is_counted_unpacked(client: Any, coding: str) -> None:
    body = b'"' + b"x" * (33 * MIB) + b'"'
    packed = gzip.compress(body) if coding == "gzip" else zstd.compress(body)
    headers = {"Content-Encoding": coding}
    response = await client.post("/prompt", data=packed, headers=headers)
    error = (await response.json())["error"]
    assert (response.status, error["type"]) == (413, "json_too_large")
    assert "max_json_mb" in error["message"]


async def test_a_limit_of_json_is_not_one_of_uploads(serve: Any, room_of_files: Any) -> None:
    client = await serve(max_json_bytes=1000)
    form = aiohttp.FormData()
    form.add_field("image", b"x" * 5000, filename="a.png")
    assert (await client.post("/upload/image", data=form)).status == 200
    assert (await client.post("/prompt", data=b" " * 1001)).status == 413
    assert len(room_of_files.uploads[0]["data"]) == 5000


async def test_large_json_is_parsed_beside_the_event_loop(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    parse = bodies.parse

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse(*given)

    monkeypatch.setattr(bodies, "parse", noted)
    for size in (10, bodies.LARGE):
        await client.post("/free", json={"text": "x" * size})
    assert threads == [True, False]


async def test_a_packed_form_is_unpacked_as_it_is_read(client: Any, room_of_files: Any) -> None:
    data = bytes(range(256)) * 8192
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + data
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}
    response = await client.post("/upload/image", data=gzip.compress(body), headers=headers)
    assert response.status == 200
    assert room_of_files.uploads[0]["data"] == data


@pytest.mark.parametrize("kind", ["bomb", "broken"])
async def test_a_packed_form_that_is_too_large_or_broken_is_refused(serve: Any, kind: str) -> None:
    client = await serve(max_upload_bytes=MIB)
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + bytes(30 * MIB)
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}
    packed = gzip.compress(body)
    response = await client.post(
        "/upload/image", data=packed if kind == "bomb" else packed[50:], headers=headers
    )
    assert response.status == (413 if kind == "bomb" else 400)


async def test_a_form_without_files_is_small(client: Any) -> None:
    response = await client.post("/upload/image", data={"type": "x" * 100_000})
    assert response.status == 413
