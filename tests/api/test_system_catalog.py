"""`/object_info` on the wire: as ComfyUI's by itself, compressed and conditional where asked."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

Client = TestClient[Any, Any]
Serve = Callable[..., Awaitable[Client]]

BODY = b'{"LoadImage": {}}'
SKIPPED = ("User-Agent", "Accept", "Accept-Encoding")


async def ask(client: Client, method: str = "GET", **headers: str) -> ClientResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = client.make_url("/object_info")
    answer = await client.session.request(method, url, headers=named, skip_auto_headers=SKIPPED)
    await answer.read()
    return answer


@pytest.fixture(autouse=True)
def raw(client: Client) -> None:
    """Leave the bodies as they came."""
    client.session._auto_decompress = False


def names(answer: ClientResponse) -> list[str]:
    return sorted(answer.headers)


async def test_who_does_not_ask_gets_it_as_comfyui_sends_it(client: Client) -> None:
    answer = await ask(client)
    assert (answer.status, await answer.read()) == (200, BODY)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert names(answer) == ["Content-Length", "Content-Type", "Date", "Etag", "Server", "Vary"]


async def test_who_asks_gets_it_compressed(client: Client) -> None:
    answer = await ask(client, Accept_Encoding="gzip, deflate")
    data = await answer.read()
    assert gzip.decompress(data) == BODY
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Length"] == str(len(data))


@pytest.mark.parametrize("accepted", ["", "gzip;q=0", "identity", "br"])
async def test_who_asks_for_nothing_we_have_gets_it_plain(client: Client, accepted: str) -> None:
    answer = await ask(client, Accept_Encoding=accepted)
    assert await answer.read() == BODY
    assert "Content-Encoding" not in answer.headers


async def test_each_coding_varies_and_has_a_strong_tag_of_its_own(client: Client) -> None:
    answers = [await ask(client, Accept_Encoding=coding) for coding in ("identity", "gzip", "zstd")]
    assert [answer.headers["Vary"] for answer in answers] == ["Accept-Encoding"] * 3
    tags = {answer.headers["ETag"] for answer in answers}
    assert len(tags) == 3
    assert all(tag.startswith('"') for tag in tags)


async def test_it_varies_by_the_page_too_where_pages_differ(serve: Serve) -> None:
    page = "http://page.example"
    answer = await ask(await serve(cors_origins=(page,)), Origin=page)
    assert answer.headers.getall("Vary") == ["Accept-Encoding", "Origin"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_it_gets_304_with_tag_and_vary_alone(client: Client, form: str) -> None:
    tag = (await ask(client, Accept_Encoding="gzip")).headers["ETag"]
    answer = await ask(client, Accept_Encoding="gzip", If_None_Match=form.format(tag))
    assert (answer.status, await answer.read()) == (304, b"")
    assert (answer.headers["ETag"], answer.headers["Vary"]) == (tag, "Accept-Encoding")
    assert names(answer) == ["Date", "Etag", "Server", "Vary"]


async def test_the_tag_of_another_coding_is_not_it(client: Client) -> None:
    tag = (await ask(client, Accept_Encoding="gzip")).headers["ETag"]
    assert (await ask(client, If_None_Match=tag)).status == 200


@pytest.mark.parametrize("accepted", ["identity", "gzip"])
async def test_head_has_the_headers_of_get(client: Client, accepted: str) -> None:
    get, head = [await ask(client, method, Accept_Encoding=accepted) for method in ("GET", "HEAD")]
    assert await head.read() == b""
    get_headers, head_headers = [
        {name: value for name, value in answer.headers.items() if name != "Date"}
        for answer in (get, head)
    ]
    assert head_headers == get_headers


async def test_the_connection_is_used_again(client: Client) -> None:
    first = await ask(client)
    assert first.connection is None
    assert (await ask(client, "HEAD")).status == 200
    assert len(client.session.connector._conns) == 1  # type: ignore[union-attr]


async def test_one_class_is_answered_as_it_was(client: Client) -> None:
    async with client.get("/object_info/LoadImage", headers={"Accept-Encoding": "gzip"}) as answer:
        assert await answer.read() == b'{"LoadImage": {}}'
        assert names(answer) == ["Content-Length", "Content-Type", "Date", "Server"]
