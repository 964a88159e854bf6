"""Signed downloads: the bytes, their extent, and what the storage never sees."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from proxy.cloud.client import CloudClient
from proxy.cloud.downloads import redirect_target
from proxy.cloud.errors import CloudGarbage, CloudRefused, CloudUnreachable
from proxy.cloud.resilience import RetryPolicy
from tests.cloud.conftest import KEY, Connect, Reply, Script, Serve, answer, cut_off, redirect

SIGNED = "/bucket/f00d.png?sig=a%2Fb%3d%20c+d&X-Name=%C3%BC"


def signed(storage: Script) -> Reply:
    return redirect(f"{str(storage.url).rstrip('/')}{SIGNED}")


async def fetch(client: CloudClient, offset: int = 0) -> bytes:
    async with client.download("f00d.png", "output", offset) as download:
        return b"".join([chunk async for chunk in download.chunks()])


async def test_the_redirect_is_followed_verbatim_and_without_credentials(
    serve: Serve, connect: Connect
) -> None:
    storage = await serve(answer(body=b"bytes", headers={"Set-Cookie": "a=b"}))
    cloud = await serve(signed(storage))
    client = await connect(cloud.url)
    assert await fetch(client) == b"bytes"
    assert await fetch(client) == b"bytes"
    assert cloud.seen[0].target == "/api/view?filename=f00d.png&type=output"
    for seen in storage.seen:
        assert seen.target == SIGNED
        assert not {"X-API-Key", "Authorization", "Cookie", "Referer"} & set(seen.headers)
        assert KEY not in str(seen)


async def test_a_redirect_to_the_clouds_own_origin_gets_no_key_either(
    serve: Serve, connect: Connect
) -> None:
    cloud = await serve(redirect("../signed/here?x=1"), answer(body=b"bytes"))
    assert await fetch(await connect(cloud.url / "gate")) == b"bytes"
    assert cloud.seen[1].target == "/gate/signed/here?x=1"
    assert "X-API-Key" in cloud.seen[0].headers
    assert "X-API-Key" not in cloud.seen[1].headers


async def test_the_storage_may_redirect_again_but_not_for_ever(
    serve: Serve, connect: Connect
) -> None:
    storage = await serve(redirect("/elsewhere", 307), answer(body=b"bytes"), redirect("/round"))
    cloud = await serve(signed(storage))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    assert await fetch(client) == b"bytes"
    with pytest.raises(CloudGarbage, match="too many redirects"):
        await fetch(client)


async def test_bytes_may_come_directly(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer(body=b"bytes", content_type="image/png"))
    client = await connect(cloud.url)
    async with client.download("f00d.png", "output") as download:
        assert download.size == 5


async def test_an_offset_asks_for_the_rest(serve: Serve, connect: Connect) -> None:
    storage = await serve(answer(body=b"tes", status=206, headers={"Content-Range": "bytes 2-4/5"}))
    client = await connect((await serve(signed(storage))).url)
    async with client.download("f00d.png", "output", 2) as download:
        assert download.size == 5
        assert [chunk async for chunk in download.chunks()] == [b"tes"]
    assert storage.seen[0].headers["Range"] == "bytes=2-"


@pytest.mark.parametrize(("offset", "rest"), [(2, b"tes"), (5, b"")])
async def test_what_a_storage_without_ranges_sends_before_the_offset_is_left_out(
    serve: Serve, connect: Connect, offset: int, rest: bytes
) -> None:
    storage = await serve(answer(body=b"bytes"))
    client = await connect((await serve(signed(storage))).url)
    async with client.download("f00d.png", "output", offset) as download:
        assert download.size == 5
        assert b"".join([chunk async for chunk in download.chunks()]) == rest


@pytest.mark.parametrize("given", ["bytes 0-4/5", "bytes */5", ""])
async def test_another_range_than_the_one_asked_for_is_garbage(
    serve: Serve, connect: Connect, given: str
) -> None:
    storage = await serve(answer(body=b"tes", status=206, headers={"Content-Range": given}))
    client = await connect((await serve(signed(storage))).url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage, match="range"):
        await fetch(client, offset=2)


async def test_a_length_that_the_storage_does_not_tell_is_none(
    serve: Serve, connect: Connect
) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"bytes")
        return response

    client = await connect((await serve(chunked)).url)
    async with client.download("f00d.png", "output") as download:
        assert download.size is None
        assert [chunk async for chunk in download.chunks()] == [b"bytes"]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_signature_that_ran_out_is_replaced_once(
    serve: Serve, connect: Connect, status: int
) -> None:
    storage = await serve(answer(text="Expired", status=status), answer(body=b"bytes"))
    cloud = await serve(signed(storage))
    assert await fetch(await connect(cloud.url)) == b"bytes"
    assert len(cloud.seen) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_storage_that_goes_on_refusing_is_believed_and_the_key_is_not_blamed(
    serve: Serve, connect: Connect, status: int
) -> None:
    storage = await serve(answer(text="StringToSign", status=status))
    cloud = await serve(signed(storage))
    with pytest.raises(CloudRefused) as caught:
        await fetch(await connect(cloud.url))
    assert (caught.value.status, type(caught.value)) == (403, CloudRefused)
    assert f"refused the signed address ({status})" in str(caught.value)
    assert "StringToSign" not in f"{caught.value} {caught.value.body}"
    assert len(storage.seen) == 2


@pytest.mark.parametrize("status", [404, 416])
async def test_what_the_storage_does_not_have_is_refused_at_once(
    serve: Serve, connect: Connect, status: int
) -> None:
    storage = await serve(answer(body=b"", status=status))
    with pytest.raises(CloudRefused) as caught:
        await fetch(await connect((await serve(signed(storage))).url), offset=5)
    assert caught.value.status == status
    assert len(storage.seen) == 1


async def test_an_unknown_name_is_a_404(serve: Serve, connect: Connect) -> None:
    cloud = await serve(answer({"code": "NOT_FOUND"}, 404))
    with pytest.raises(CloudRefused) as caught:
        await fetch(await connect(cloud.url))
    assert caught.value.status == 404


async def test_a_failing_storage_is_asked_once(serve: Serve, connect: Connect) -> None:
    storage = await serve(answer(status=503, body=b""))
    with pytest.raises(CloudRefused) as caught:
        await fetch(await connect((await serve(signed(storage))).url))
    assert caught.value.status == 503
    assert len(storage.seen) == 1


async def test_bytes_that_end_too_early_raise_behind_those_that_came(
    serve: Serve, connect: Connect
) -> None:
    storage = await serve(cut_off(b"byt", 5))
    client = await connect((await serve(signed(storage))).url)
    got: list[bytes] = []

    async def collect() -> None:
        async with client.download("f00d.png", "output") as download:
            async for chunk in download.chunks():
                got.append(chunk)  # noqa: PERF401 (what came before the error counts)

    with pytest.raises(CloudUnreachable, match="cut off"):
        await collect()
    assert b"".join(got) == b"byt"


async def test_bytes_that_stall_raise(serve: Serve, connect: Connect) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "5"})
        await response.prepare(request)
        await response.write(b"byt")
        await asyncio.sleep(30)
        return response

    client = await connect((await serve(stall)).url, retries=RetryPolicy(attempt_timeout=0.3))
    with pytest.raises(CloudUnreachable, match="no answer in time"):
        await fetch(client)


@pytest.mark.parametrize(
    "location",
    ["ftp://host/x", "data:,x", "http://", "", "http://[::1", "http://[::1]@", "http://a:b"],
)
async def test_a_redirect_to_nowhere_is_garbage(
    serve: Serve, connect: Connect, location: str
) -> None:
    cloud = await serve(redirect(location))
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises((CloudGarbage, CloudUnreachable)):
        await fetch(client)


async def test_the_connection_of_a_redirect_to_nowhere_is_closed(
    serve: Serve, connect: Connect
) -> None:
    closed = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=302, headers={"Location": "ftp://host/x"})
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            closed.set()

    cloud = await serve(endless)
    client = await connect(cloud.url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage) as caught:
        await fetch(client)
    async with asyncio.timeout(5):
        await closed.wait()
    assert "not HTTP" in str(caught.value)


def test_a_redirect_from_https_to_http_is_garbage() -> None:
    response = SimpleNamespace(
        url=URL("https://cloud.example/api/view"), headers={"Location": "http://storage/x"}
    )
    with pytest.raises(CloudGarbage, match="https to http"):
        redirect_target(cast(aiohttp.ClientResponse, response))


async def test_a_status_that_has_no_bytes_is_garbage(serve: Serve, connect: Connect) -> None:
    storage = await serve(answer(status=204, body=b""))
    client = await connect((await serve(signed(storage))).url, retries=RetryPolicy(budget=0.0))
    with pytest.raises(CloudGarbage, match="204"):
        await fetch(client)


async def test_a_consumers_own_error_is_left_alone(serve: Serve, connect: Connect) -> None:
    client = await connect((await serve(answer(body=b"bytes"))).url)
    with pytest.raises(OSError, match="disk full"):
        async with client.download("f00d.png", "output"):
            raise OSError("disk full")


async def test_no_signed_url_is_logged_or_raised(
    serve: Serve,
    connect: Connect,
    unused_tcp_port: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    cloud = await serve(redirect(URL(f"http://127.0.0.1:{unused_tcp_port}/x?sig=topsecret")))
    with pytest.raises(CloudUnreachable) as caught:
        await fetch(await connect(cloud.url, retries=RetryPolicy(budget=0.1)))
    out, err = capsys.readouterr()
    assert "topsecret" not in out + err + caplog.text + str(caught.value)
    assert caught.value.__suppress_context__
