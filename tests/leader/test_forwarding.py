"""Requests that a standby passes on to the leader."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import uuid
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from certificates import certify
from leader.passing import TIMEOUT, Handler, Passing, leader, raw_leader, sign, standing_by
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.edge.addressing import AGAIN, ON_LOOPBACK, PROMPT_ID, STANDBY
from proxy.edge.tls import Certificate
from proxy.leader import forwarding
from proxy.leader.addresses import fingerprint
from proxy.storage.database import Database


@pytest.fixture
async def standby(database: Database) -> AsyncIterator[Passing]:
    async with standing_by(database) as passing:
        yield passing


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def echo(request: web.Request) -> web.Response:
    """Answer with what has come."""
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": [list(item) for item in request.headers.items()],
            "body": (await request.read()).hex(),
        }
    )


def headers_of(answer: dict[str, list[list[str]]]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict((name, value) for name, value in answer["headers"]))


def answering(text: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    return answer


# --- what the leader gets ------------------------------------------------------------------


async def test_a_request_reaches_the_leader_as_it_was_sent(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with leader(echo) as url:
        await standby.leads(url)
        target = URL(f"{standby.url}/t/abc/view?a=%2F&b=+x&token=y", encoded=True)
        headers = {"Cookie": "session=1", "Authorization": "Bearer t", "X-Two": "2", "Host": "gw:1"}
        async with session.patch(target, data=b"\0\xff", headers=headers) as answer:
            found = await answer.json()
        assert (found["method"], found["body"]) == ("PATCH", "00ff")
        assert found["path"] == "/t/abc/view?a=%2F&b=+x&token=y"
        assert headers.items() <= dict(headers_of(found)).items()
        assert headers_of(found)["X-Forwarded-Host"] == "gw:1"


async def test_the_leader_learns_who_the_client_is(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with leader(echo) as url:
        lease = await standby.leads(url)
        async with session.get(standby.url / "queue") as answer:
            found = headers_of(await answer.json())
        assert found[STANDBY] == sign(lease.epoch)
        assert found["X-Forwarded-For"] == "127.0.0.1"
        assert (found["X-Forwarded-Proto"], found[ON_LOOPBACK]) == ("http", "1")


FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "elsewhere",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9",
    "X-User": "admin",
    STANDBY: "forged",
    PROMPT_ID: str(uuid.uuid4()),
    AGAIN: "1",
}


async def test_headers_that_only_trusted_proxies_may_send_are_left_out(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with leader(echo) as url:
        lease = await standby.leads(url)
        async with session.get(standby.url / "queue", headers=FORGED) as answer:
            # Nobody but a standby may say that it is one, so that a forged proof leads nowhere.
            assert answer.status == forwarding.NOT_LEADING
        forged = {name: value for name, value in FORGED.items() if name != STANDBY}
        async with session.get(standby.url / "queue", headers=forged) as answer:
            found = headers_of(await answer.json())
        assert found.getall(STANDBY) == [sign(lease.epoch)]
        assert found.getall("X-Forwarded-For") == ["127.0.0.1"]
        assert found.getall("X-Forwarded-Proto") == ["http"]
        assert found.getall("X-Forwarded-Host") == [f"127.0.0.1:{standby.url.port}"]
        assert not {"X-Real-IP", "Forwarded", "X-User", PROMPT_ID, AGAIN} & set(found)


async def test_what_a_trusted_proxy_says_is_passed_on(
    database: Database, session: aiohttp.ClientSession
) -> None:
    async with (
        standing_by(database, trusted=(ip_network("127.0.0.0/8"),)) as standby,
        leader(echo) as url,
    ):
        await standby.leads(url)
        said = {name: FORGED[name] for name in ("X-Forwarded-For", "X-Forwarded-Proto", "X-User")}
        said["X-Forwarded-Host"] = "gw.example"
        async with session.get(standby.url / "queue", headers=said) as answer:
            found = headers_of(await answer.json())
        assert {name: found.getall(name) for name in said} == {
            name: [value] for name, value in said.items()
        }
        assert ON_LOOPBACK not in found


# --- bodies --------------------------------------------------------------------------------


async def test_packed_bodies_stay_packed_both_ways(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    packed = gzip.compress(b"x" * 1000)

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Content-Encoding"] == "gzip"
        assert request.headers["Accept-Encoding"] == "gzip"
        assert await request.read() == packed
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with leader(answer) as url:
        await standby.leads(url)
        headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
        async with session.post(standby.url / "queue", data=packed, headers=headers) as found:
            assert found.headers["Content-Encoding"] == "gzip"
            assert await found.read() == packed


async def test_an_upload_without_a_length_is_passed_on_in_pieces(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    """The second piece is sent once the leader has the first."""
    first_has_come = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Transfer-Encoding"] == "chunked"
        content = request.content.iter_any()
        first = await anext(content)
        first_has_come.set()
        return web.Response(body=first + b"".join([piece async for piece in content]))

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        async with asyncio.timeout(TIMEOUT):
            await first_has_come.wait()
        yield b"two"

    async with leader(answer) as url:
        await standby.leads(url)
        async with session.post(standby.url / "upload/image", data=pieces()) as found:
            assert await found.read() == b"onetwo"


@pytest.mark.parametrize("path", ["upload/image", "prompt"])
async def test_a_client_that_waits_is_asked_for_its_body(
    standby: Passing, session: aiohttp.ClientSession, path: str
) -> None:
    async with leader(echo) as url:
        await standby.leads(url)
        async with session.post(standby.url / path, data=b"abc", expect100=True) as answer:
            assert (await answer.json())["body"] == b"abc".hex()


async def test_large_bodies_pass(standby: Passing, session: aiohttp.ClientSession) -> None:
    """Twelve times what a submission may have."""
    body = b"0123456789abcdef" * (12 * 2**16)

    async def answer(request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
        return web.Response(body=body, headers={"X-Digest": digest.hexdigest()})

    async with leader(answer) as url:
        await standby.leads(url)
        async with session.post(standby.url / "upload/image", data=io.BytesIO(body)) as found:
            assert found.headers["X-Digest"] == hashlib.sha256(body).hexdigest()
            assert await found.read() == body


async def test_a_submission_that_is_too_large_is_refused(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    body = io.BytesIO(b"x" * (2**20 + 1))
    async with leader(echo) as url:
        await standby.leads(url)
        async with session.post(standby.url / "prompt", data=body) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["type"] == "json_too_large"


async def test_submissions_that_a_standby_holds_count_as_memory_of_their_client(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with raw_leader() as first:
        await standby.leads(first.url)
        body = io.BytesIO(b"x" * 2**19)
        asking = asyncio.ensure_future(session.post(standby.url / "prompt", data=body))
        connection = await first.next()
        assert standby.budget.held()["body"] == 2**19
        connection.answer("taken")
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert await answer.text() == "taken"
        assert not standby.budget.held().get("body")


# --- answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_pass(
    standby: Passing, session: aiohttp.ClientSession, status: int
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"ETag": '"a"'})

    async with leader(answer) as url:
        await standby.leads(url)
        for _ in range(2):
            async with session.get(standby.url / "view") as found:
                assert (found.status, found.headers["ETag"]) == (status, '"a"')
                assert await found.read() == b""


async def test_the_answer_to_head_has_the_length_of_that_to_get(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with leader(answering("abc")) as url:
        await standby.leads(url)
        for _ in range(2):
            async with session.head(standby.url / "view") as found:
                assert (found.status, found.headers["Content-Length"]) == (200, "3")


async def test_redirects_are_the_clients(standby: Passing, session: aiohttp.ClientSession) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "https://storage.example/x?a=1"})

    async with leader(answer) as url:
        await standby.leads(url)
        async with session.get(standby.url / "view", allow_redirects=False) as found:
            assert found.status == 302
            assert found.headers["Location"] == "https://storage.example/x?a=1"


async def test_ranges_and_cookies_pass(standby: Passing, session: aiohttp.ClientSession) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Range"] == "bytes=1-2"
        found = web.Response(status=206, body=b"bc", headers={"Content-Range": "bytes 1-2/6"})
        found.set_cookie("one", "1")
        found.set_cookie("two", "2")
        return found

    async with leader(answer) as url:
        await standby.leads(url)
        async with session.get(standby.url / "view", headers={"Range": "bytes=1-2"}) as found:
            assert (found.status, await found.read()) == (206, b"bc")
            assert found.headers["Content-Range"] == "bytes 1-2/6"
            assert len(found.headers.getall("Set-Cookie")) == 2


async def test_a_stream_of_events_passes_event_by_event(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    read = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        async with asyncio.timeout(TIMEOUT):
            await read.wait()
        await stream.write(b"data: 2\n\n")
        return stream

    async with leader(answer) as url:
        await standby.leads(url)
        async with session.get(standby.url / "proxy/api/state/events") as found:
            assert found.content_type == "text/event-stream"
            assert await found.content.readuntil(b"\n\n") == b"data: 1\n\n"
            read.set()
            assert await found.content.read() == b"data: 2\n\n"


# --- one leader after the other ------------------------------------------------------------


async def test_a_request_waits_for_a_leader(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with leader(answering("here")) as url:
        asking = asyncio.ensure_future(session.post(standby.url / "queue", data=b"{}"))
        await asyncio.sleep(0)
        await standby.leads(url)
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert await answer.text() == "here"


async def test_a_request_is_refused_if_nobody_leads_in_time(
    standby: Passing, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LEADER_TIMEOUT", 0.1)
    async with session.post(standby.url / "queue", data=b"{}") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await answer.json())["error"]["type"] == "no_leader"


async def test_what_was_never_sent_goes_to_the_next_leader(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with raw_leader() as gone:
        pass
    async with leader(echo) as url:
        await standby.leads(gone.url)
        asking = asyncio.ensure_future(session.post(standby.url / "queue", data=b"once"))
        await asyncio.sleep(0)
        await standby.leads(url)
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            found = await answer.json()
        assert found["body"] == b"once".hex()


async def test_what_the_leader_has_not_read_goes_to_the_next_one(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    """A process whose term is over says so before it reads the body."""
    refused = asyncio.Event()

    async def refuse(_: web.Request) -> web.Response:
        refused.set()
        answer = web.Response(status=forwarding.NOT_LEADING)
        answer.force_close()
        return answer

    async with leader(refuse) as first, leader(echo) as second:
        await standby.leads(first)
        asking = asyncio.ensure_future(session.post(standby.url / "queue", data=b"once"))
        async with asyncio.timeout(TIMEOUT):
            await refused.wait()
        await standby.leads(second)
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert (await answer.json())["body"] == b"once".hex()


async def test_what_may_have_been_carried_out_is_not_sent_again(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with raw_leader() as first:
        await standby.leads(first.url)
        asking = asyncio.ensure_future(session.post(standby.url / "queue", data=b"once"))
        connection = await first.next()
        connection.cut()
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert answer.status == 504
            assert answer.headers["Retry-After"] == "5"
            assert (await answer.json())["error"]["type"] == "leader_lost"


@pytest.mark.parametrize("breaks", [True, False], ids=["its-connection-breaks", "it-is-silent"])
async def test_a_reading_is_sent_again(
    standby: Passing, session: aiohttp.ClientSession, breaks: bool
) -> None:
    """To the next leader, as soon as there is one, whether or not the first is heard of again."""
    async with raw_leader() as first, leader(answering("new")) as url:
        await standby.leads(first.url)
        asking = asyncio.ensure_future(session.get(standby.url / "queue"))
        connection = await first.next()
        if breaks:
            connection.cut()
        await standby.leads(url)
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert (answer.status, await answer.text()) == (200, "new")


@pytest.mark.parametrize("path", ["prompt", "api/prompt", "t/abc/prompt"])
async def test_a_submission_is_sent_again_with_the_id_that_it_had(
    standby: Passing, session: aiohttp.ClientSession, path: str
) -> None:
    async with raw_leader() as first, leader(echo) as url:
        await standby.leads(first.url)
        asking = asyncio.ensure_future(session.post(standby.url / path, data=b"{}"))
        connection = await first.next()
        given = connection.header(PROMPT_ID)
        assert given is not None
        assert str(uuid.UUID(given)) == given
        assert connection.header(AGAIN) is None
        connection.cut()
        await standby.leads(url)
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            found = await answer.json()
        assert headers_of(found)[PROMPT_ID] == given
        assert headers_of(found)[AGAIN] == "1"
        assert found["body"] == b"{}".hex()


async def test_a_submission_that_is_denied_when_it_is_sent_again_may_run(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    """The first leader may have stored the job of a member who was disabled then."""

    async def deny(_: web.Request) -> web.Response:
        return web.Response(status=401)

    async with raw_leader() as first, leader(deny) as url:
        await standby.leads(first.url)
        asking = asyncio.ensure_future(session.post(standby.url / "prompt", data=b"{}"))
        (await first.next()).cut()
        await standby.leads(url)
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert answer.status == 504
            assert (await answer.json())["error"]["type"] == "leader_lost"
        async with session.post(standby.url / "prompt", data=b"{}") as answer:
            assert answer.status == 401


async def test_no_two_submissions_have_one_id(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    ids = set()
    async with leader(echo) as url:
        await standby.leads(url)
        for _ in range(2):
            async with session.post(standby.url / "prompt", data=b"{}") as answer:
                ids.add(headers_of(await answer.json())[PROMPT_ID])
    assert len(ids) == 2


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(
    standby: Passing, session: aiohttp.ClientSession
) -> None:
    async with raw_leader() as first:
        await standby.leads(first.url)
        asking = asyncio.ensure_future(session.get(standby.url / "view"))
        connection = await first.next()
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        async with asyncio.timeout(TIMEOUT), await asking as answer:
            assert await answer.content.readexactly(3) == b"abc"
            connection.cut()
            with pytest.raises(aiohttp.ClientError):
                await answer.read()


# --- TLS -----------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> list[Certificate]:
    """Those of two processes."""
    return [Certificate(*certify(tmp_path, name)) for name in ("own", "other")]


async def test_a_leader_with_tls_is_known_by_its_certificate(
    standby: Passing, session: aiohttp.ClientSession, certificates: list[Certificate]
) -> None:
    """Whoever has its address with another certificate gets nothing."""
    own, other = certificates
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(text="from the leader")

    async with leader(answer, tls=own.context) as url:
        await standby.leads(url, certificate=fingerprint(other.pem))
        asking = asyncio.ensure_future(session.post(standby.url / "queue", data=b"once"))
        async with asyncio.timeout(TIMEOUT), await asking as found:
            assert found.status == 504
        assert not seen
        await standby.leads(url, certificate=fingerprint(own.pem))
        async with session.get(standby.url / "queue") as found:
            assert await found.text() == "from the leader"
