"""Answers: which coding a client wants, and what is packed."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any, get_args

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from proxy.api import bodies
from proxy.api.bodies import LEAST, coding
from proxy.translate.errors import Kind, LocalError


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


Client = TestClient[Any, Any]
STATS = "/system_stats"


@pytest.fixture
async def packing(serve: Any) -> Any:
    """A client that shows what is sent, and a server that packs."""
    served = await serve(compress=True)
    server: TestServer[Any, Any] = served.server
    async with aiohttp.ClientSession(
        server.make_url("/"), auto_decompress=False, skip_auto_headers=("Accept-Encoding",)
    ) as session:
        yield session


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "deflate"),
        ("gzip;q=1, deflate;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
        ("br", None),
        ("*", None),
    ],
)
async def test_the_coding_is_one_that_was_asked_for(
    packing: aiohttp.ClientSession, accepted: str, coding: str | None
) -> None:
    async with packing.get(STATS, headers={"Accept-Encoding": accepted}) as answer:
        assert answer.headers.get("Content-Encoding") == coding
        assert answer.headers["Vary"] == "Accept-Encoding"
        body = await answer.read()
    assert len(body) == int(answer.headers["Content-Length"])
    unpacked = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[coding](body)
    assert json.loads(unpacked)["devices"]


async def test_a_head_says_what_a_get_would(packing: aiohttp.ClientSession) -> None:
    async with packing.head(STATS, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == b""


@pytest.mark.parametrize("path", ["/prompt", "/nope", "/queue"])
async def test_what_is_small_or_empty_goes_as_it_is(
    packing: aiohttp.ClientSession, path: str
) -> None:
    async with packing.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert "Content-Encoding" not in answer.headers
        assert "Vary" not in answer.headers
        assert len(await answer.read()) < LEAST


async def test_files_go_as_they_are(packing: aiohttp.ClientSession, room_of_files: Any) -> None:
    room_of_files.add("long.txt", b"a" * 10_000)
    query = {"filename": "long.txt"}
    async with packing.get("/view", params=query, headers={"Accept-Encoding": "gzip"}) as answer:
        assert "Content-Encoding" not in answer.headers
        assert await answer.read() == b"a" * 10_000


async def test_the_catalog_is_packed_once(packing: aiohttp.ClientSession) -> None:
    async with packing.get("/object_info", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers.getall("Content-Encoding") == ["gzip"]
        assert json.loads(gzip.decompress(await answer.read())) == {"LoadImage": {}}


async def test_a_large_answer_is_packed_whole(packing: aiohttp.ClientSession) -> None:
    settings = {"text": "letters " * 500_000}
    body = io.BytesIO(json.dumps(settings).encode())
    async with packing.post("/settings", data=body) as answer:
        assert answer.status == 200
    async with packing.get("/settings", headers={"Accept-Encoding": "gzip"}) as answer:
        assert json.loads(gzip.decompress(await answer.read())) == settings


async def test_without_the_setting_nothing_is_packed(client: Client) -> None:
    answer = await client.get(STATS, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


def test_every_kind_of_error_has_a_status() -> None:
    statuses = [bodies.status_of(LocalError("x", "y", kind=kind)) for kind in get_args(Kind)]
    assert statuses == [400, 401, 403, 404, 408, 409, 413, 415, 424, 429, 500, 501, 502, 503, 504]
