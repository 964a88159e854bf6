"""Bodies: what they may hold, how large they may get, and how they are packed and unpacked."""

from __future__ import annotations

import contextlib
import gc
import gzip
import sys
import threading
import weakref
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request

from proxy.api import bodies, request_bodies
from proxy.api.bodies import coding
from proxy.translate.errors import Kind, LocalError, PlainError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Client = TestClient[Any, Any]
STATS = "/system_stats"
MIB = 1024 * 1024
GRAPH = {"prompt": {"1": {"class_type": "EmptyImage", "inputs": {}}}}


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_deep_json_is_refused_before_anything_walks_through_it() -> None:
    with pytest.raises(request_bodies.NotJsonError) as raised:
        request_bodies.parse(nested(400), None)
    assert "300 levels" in raised.value.details


def test_wide_json_is_not_deep() -> None:
    wide = b"[" + b",".join([b"[{}]"] * 1000) + b"]"
    assert len(request_bodies.parse(wide, None)) == 1000


def test_as_deep_as_people_write_is_taken() -> None:
    request_bodies.parse(nested(250), None)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'"a"'])
def test_more_values_than_any_workflow_has_are_refused_before_they_are_made(
    value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: object) -> None:
        raise AssertionError("the values were made")

    monkeypatch.setattr("proxy.translate.codec.loads", forbidden)
    many = b"[" + b",".join([value] * (request_bodies.MAX_VALUES + 1)) + b"]"
    with pytest.raises(bodies.LocalError) as raised:
        request_bodies.parse(many, None)
    assert (raised.value.kind, raised.value.type) == ("too_large", "too_many_values")


def test_a_list_of_the_most_values_is_read() -> None:
    most = b"[" + b",".join([b"1"] * request_bodies.MAX_VALUES) + b"]"
    assert len(request_bodies.parse(most)) == request_bodies.MAX_VALUES


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
    assert "upload pictures as files" in error["message"]


async def test_a_limit_of_json_is_not_one_of_uploads(
    serve: Any, room_of_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_bodies, "MAX_JSON_BYTES", 1000)
    client = await serve()
    form = aiohttp.FormData()
    form.add_field("image", b"x" * 5000, filename="a.png")
    assert (await client.post("/upload/image", data=form)).status == 200
    assert (await client.post("/prompt", data=b" " * 1001)).status == 413
    assert len(room_of_files.uploaded[0]["data"]) == 5000


async def test_large_json_is_parsed_beside_the_event_loop(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    parse = request_bodies.parse

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse(*given)

    monkeypatch.setattr(request_bodies, "parse", noted)
    for size in (10, request_bodies.LARGE):
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
    assert room_of_files.uploaded[0]["data"] == data


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


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ([], "identity"),
        ([""], "identity"),
        (["gzip"], "gzip"),
        (["GZIP"], "gzip"),
        (["x-gzip"], "gzip"),
        (["gzip, deflate"], "gzip"),
        (["gzip, deflate, br, zstd"], "zstd"),
        (["deflate", "gzip"], "gzip"),
        (["deflate, br"], "identity"),
        (["identity"], "identity"),
        (["*"], "identity"),
        (["gzip;q=0"], "identity"),
        (["gzip;q=0.000, *"], "identity"),
        (["gzip ; q=0.001"], "gzip"),
        (["gzip;Q=1"], "gzip"),
        (["zstd;q=0.5, gzip;q=0.8"], "gzip"),
        (["zstd;q=0, gzip"], "gzip"),
        (["zstd;q=0.8, gzip;q=0.8"], "zstd"),
        (["gzip, identity"], "gzip"),
        (["identity;q=1, gzip;q=0.5"], "identity"),
        (["identity;q=0, gzip;q=0.1"], "gzip"),
        (["identity;q=0"], "identity"),
        (["gzip;q=high"], "identity"),
        (["gzip;q=-1"], "identity"),
        (["gzip;q"], "identity"),
        (["gzipped, é, ;q=1, gzip;;"], "identity"),
    ],
)
def test_the_coding(accepted: list[str], expected: str) -> None:
    assert coding(accepted, ["zstd", "gzip"]) == expected


async def test_without_the_setting_nothing_is_packed(client: Client) -> None:
    answer = await client.get(STATS, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


def test_every_kind_of_error_has_a_status() -> None:
    statuses = [bodies.status_of(LocalError("x", "y", kind=kind)) for kind in get_args(Kind)]
    assert statuses == [400, 401, 403, 404, 408, 409, 413, 415, 424, 429, 500, 501, 502, 503, 504]


@pytest.mark.parametrize("kind", [PlainError, partial(LocalError, "refused")])
async def test_a_refusal_lets_go_of_what_its_handler_held(
    kind: Callable[[str], LocalError],
) -> None:
    """A cycle of errors and frames would keep bodies in memory until a late collection."""

    class Body:
        pass

    bodies_held: list[weakref.ref[Body]] = []

    @bodies.in_form(PlainError.of)
    async def refuse(_: web.Request) -> web.Response:
        body = Body()
        bodies_held.append(weakref.ref(body))
        raise kind("no")

    gc.disable()
    try:
        with contextlib.suppress(PlainError):
            await refuse(make_mocked_request("GET", "/"))
        assert bodies_held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(("query", "number"), [({}, 24), ({"n": "2"}, 2), ({"n": "1000"}, 1000)])
def test_a_number_of_a_query(query: dict[str, str], number: int) -> None:
    assert request_bodies.query_number(query, "n", 24, 2, 1000) == number


@pytest.mark.parametrize(
    "text", ["", "x", "1", "1001", "-3", "+3", " 3", "1_0", "3.0", "٣", "9" * 5000]
)
def test_what_is_no_such_number_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="n must be a whole number from 2 to 1,000") as refused:
        request_bodies.query_number({"n": text}, "n", 24, 2, 1000)
    assert refused.value.type == "invalid_n"
