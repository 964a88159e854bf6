"""One attempt over real sockets: what is sent, and what each answer means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
from aiohttp import web
from receiver import Receiver, receiving

from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.endpoints import new_secret
from proxy.webhooks.sender import EndpointAnswer, WebhookSender

SECRET = new_secret()
BODY = '{"type":"webhook.test","data":{"ü":1}}'.encode()

HERE = WebhookAddresses((ip_network("127.0.0.0/8"),))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    made = WebhookSender(HERE.check)
    await made.start()
    yield made
    await made.close()


async def _send(sender: WebhookSender, url: object, timeout: float = 10.0) -> EndpointAnswer:
    return await sender.send(str(url), SECRET, "msg_1", BODY, timeout)


async def test_a_message_is_signed_and_has_its_id(
    sender: WebhookSender, receiver: Receiver
) -> None:
    answer = await _send(sender, receiver.url / "hook")
    assert answer.accepted
    (received,) = receiver.got
    assert received.body == BODY
    assert received.id == "msg_1"
    assert received.headers["content-type"] == "application/json"
    assert received.verified(SECRET) == json.loads(BODY)
    with pytest.raises(Exception, match="signature"):
        received.verified(new_secret())


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_a_2xx_is_a_delivery(sender: WebhookSender, receiver: Receiver, status: int) -> None:
    receiver.answer("/hook", status)
    assert (await _send(sender, receiver.url / "hook")).accepted


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_another_status_is_none(
    sender: WebhookSender, receiver: Receiver, status: int
) -> None:
    receiver.answer("/hook", status, **{"Retry-After": "7"})
    answer = await _send(sender, receiver.url / "hook")
    assert not answer.accepted
    assert not answer.gone
    assert answer == EndpointAnswer(status, f"The endpoint answered {status}.", 7.0)


async def test_a_410_means_that_the_endpoint_is_gone(
    sender: WebhookSender, receiver: Receiver
) -> None:
    receiver.answer("/hook", 410)
    assert (await _send(sender, receiver.url / "hook")).gone


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_says_where_it_leads(
    sender: WebhookSender, receiver: Receiver, status: int
) -> None:
    place = str(receiver.url / "moved")
    receiver.answer("/hook", status, Location=place)
    answer = await _send(sender, receiver.url / "hook")
    assert not answer.accepted
    assert place in answer.note
    assert "change the URL" in answer.note
    assert receiver.at("/moved") == []


async def test_an_endpoint_that_hangs_costs_the_timeout(
    sender: WebhookSender, receiver: Receiver
) -> None:
    receiver.hang("/hook")
    answer = await _send(sender, receiver.url / "hook", timeout=0.2)
    assert answer == EndpointAnswer(note="No answer within 0.2 s.")


async def test_an_answer_without_an_end_is_not_read(
    sender: WebhookSender, receiver: Receiver
) -> None:
    closed = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        finally:
            closed.set()

    receiver.answers["/hook"] = endless
    assert (await _send(sender, receiver.url / "hook")).accepted
    async with asyncio.timeout(10):
        await closed.wait()


async def test_a_connection_that_breaks_off_is_no_delivery(
    sender: WebhookSender, receiver: Receiver
) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    receiver.answers["/hook"] = breaks
    answer = await _send(sender, receiver.url / "hook")
    assert answer == EndpointAnswer(note="The connection was closed before the answer.")


async def test_nobody_listens(sender: WebhookSender, unused_tcp_port: int) -> None:
    answer = await _send(sender, f"http://127.0.0.1:{unused_tcp_port}/")
    assert answer.status is None
    assert answer.note.startswith("The connection failed")


async def test_a_name_that_nobody_has(sender: WebhookSender) -> None:
    answer = await _send(sender, "http://nobody.invalid/")
    assert answer.note == "The name of the host cannot be resolved."


async def test_a_name_that_leads_into_the_network_is_refused(receiver: Receiver) -> None:
    """The address counts that is connected to, whatever the name was."""
    sender = WebhookSender(WebhookAddresses().check)
    await sender.start()
    try:
        for host in ("localhost", "127.0.0.1"):
            answer = await _send(sender, receiver.url.with_host(host) / "hook")
            assert "not in the public network" in answer.note
    finally:
        await sender.close()
    assert receiver.got == []


@pytest.mark.parametrize(
    ("host", "status"), [("0x7f.1", None), ("0x7f000001", None), ("nobody.invalid", 204)]
)
async def test_behind_an_http_proxy_a_name_that_leads_into_the_network_is_refused_too(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, host: str, status: int | None
) -> None:
    """A name that nobody knows here may be known to the HTTP proxy."""
    monkeypatch.setenv("http_proxy", str(receiver.url))
    sender = WebhookSender(WebhookAddresses().check)
    await sender.start()
    try:
        answer = await _send(sender, f"http://{host}/hook")
    finally:
        await sender.close()
    assert answer.status == status
    assert ("not in the public network" in answer.note) is (status is None)
    assert len(receiver.got) == (status is not None)


async def test_a_server_without_tls_is_named(sender: WebhookSender, receiver: Receiver) -> None:
    answer = await _send(sender, receiver.url.with_scheme("https"))
    assert answer.status is None
    assert "TLS" in answer.note
