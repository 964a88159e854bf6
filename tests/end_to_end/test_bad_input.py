"""Odd requests over real sockets: a clear 4xx each, no traceback, and the proxy goes on."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from process import Process, serving
from stack import Client

#: The fields of uploads that lack a file, or whose file may not lie there, by what is wrong.
UPLOADS: dict[str, list[tuple[str, Any, dict[str, str]]]] = {
    "nothing": [],
    "text": [("image", "text", {})],
    "no name": [("image", b"x", {"filename": ""})],
    "traversal": [("image", b"x", {"filename": "../../evil.png"})],
    "subfolder": [("image", b"x", {"filename": "a.png"}), ("subfolder", "../..", {})],
    "type": [("image", b"x", {"filename": "a.png"}), ("type", "odd", {})],
    "other field": [("other", b"x", {"filename": "a.png"})],
}


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    options = ["--simulate", "--log-level", "debug"]
    async with serving(tmp_path, *options) as running:
        yield running
        assert await running.stop() == 0
        log = b"".join(running.said)
        assert b"Traceback" not in log, log.decode()
        assert b"request_failed" not in log, log.decode()


@pytest.fixture
def client(process: Process, session: aiohttp.ClientSession) -> Client:
    return Client(session, process.url)


@pytest.mark.parametrize("path", ["prompt", "upload/image"])
async def test_a_body_beyond_the_limit_is_413(client: Client, path: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(1024 * 1024)

    headers = {"Content-Type": "application/json"}
    if path == "upload/image":
        headers["Content-Type"] = "multipart/form-data; boundary=x"
    try:
        async with client.session.post(
            client.url / path, data=endless(), headers=headers
        ) as answer:
            assert answer.status in (400, 413)
    except aiohttp.ClientConnectionError:
        pass  # refused before all of it was sent
    assert (await client.get("prompt"))[0] == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_upload_is_413_with_comfyuis_text(client: Client, announced: bool) -> None:
    form = aiohttp.FormData()
    form.add_field("image", io.BytesIO(bytes(101 * 1024 * 1024)), filename="a.png")
    try:
        async with client.session.post(
            client.url / "upload/image", data=form, chunked=None if announced else True
        ) as answer:
            assert answer.status == 413
            assert "Maximum request body size" in await answer.text()
    except aiohttp.ClientConnectionError:
        pytest.skip("the client library gave up before it read the answer")


async def test_uploads_that_are_none(client: Client, subtests: pytest.Subtests) -> None:
    for wrong, fields in UPLOADS.items():
        form = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
        for name, value, options in fields:
            form.add_field(name, value, **options)
        with subtests.test(wrong):
            async with client.session.post(client.url / "upload/image", data=form) as answer:
                assert answer.status == 400


async def test_a_client_that_leaves_in_mid_download_is_nobodys_trouble(client: Client) -> None:
    entry = await client.run(graphs.plain(size=2048))
    item = entry["outputs"]["2"]["images"][0]
    query = "&".join(f"{key}={value}" for key, value in item.items())
    for _ in range(3):
        reader, writer = await asyncio.open_connection(client.url.host, client.url.port)
        writer.write(f"GET /view?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.read(10)
        writer.transport.abort()
    assert (await client.view(item)).startswith(b"\x89PNG")


async def test_what_is_no_http_takes_one_line(client: Client) -> None:
    reader, writer = await asyncio.open_connection(client.url.host, client.url.port)
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    await reader.read()
    writer.close()
    assert (await client.get("prompt"))[0] == 200
