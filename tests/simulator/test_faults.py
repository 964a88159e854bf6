"""What goes wrong on demand."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from graphs import plain, png
from simulator.visitor import Visitor

from proxy.simulator import Faults, HttpFault, Simulator, SocketFault


async def test_a_status_instead_of_the_answer(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(
        HttpFault("* /api/jobs*", status=503, body="busy", headers={"Retry-After": "3"}), times=2
    )
    answers = [await visitor.get("/api/jobs") for _ in range(3)]
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert (answers[0].body, answers[0].headers["Retry-After"]) == (b"busy", "3")


async def test_a_fault_of_one_account_alone(sim: Simulator, visitor: Visitor) -> None:
    other = Visitor(sim, visitor.session, sim.add_account("other").key)
    sim.faults.add(HttpFault("*", key="other", status=503), times=None)
    assert (await visitor.get("/api/jobs")).status == 200
    assert (await other.get("/api/jobs")).status == 503


@pytest.mark.parametrize("processed", [False, True])
async def test_a_reset_before_and_after_the_job_was_taken(
    sim: Simulator, visitor: Visitor, processed: bool
) -> None:
    sim.faults.add(HttpFault("POST /api/prompt", reset=True, processed=processed))
    with pytest.raises(aiohttp.ClientConnectionError):
        await visitor.submit(plain())
    assert len(sim.jobs) == processed
    await visitor.submit(plain())


async def test_an_error_after_the_job_was_taken(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(HttpFault("POST /api/prompt", status=502, processed=True))
    assert (await visitor.post("/api/prompt", {"prompt": plain()})).status == 502
    assert len(sim.jobs) == 1


async def test_a_delay(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(HttpFault("GET /api/user", delay=0.1))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert (await visitor.get("/api/user")).status == 200
    assert loop.time() - begun >= 0.1


async def stored(visitor: Visitor) -> str:
    name = (await visitor.upload(png())).json["name"]
    return str((await visitor.get("/api/view", filename=name)).headers["Location"])


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_body_that_breaks_off(sim: Simulator, visitor: Visitor, ending: str) -> None:
    url = await stored(visitor)
    sim.faults.add(HttpFault("GET storage", cut=10, ending=ending))  # type: ignore[arg-type]
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
        await visitor.fetch(url)
    assert (await visitor.fetch(url)).body == png()


async def test_a_body_that_is_short_and_says_so(sim: Simulator, visitor: Visitor) -> None:
    url = await stored(visitor)
    sim.faults.add(HttpFault("GET storage", cut=10, ending="clean"))
    assert (await visitor.fetch(url)).body == png()[:10]


async def test_a_body_that_is_another(sim: Simulator, visitor: Visitor) -> None:
    url = await stored(visitor)
    sim.faults.add(HttpFault("GET storage", corrupt=True))
    body = (await visitor.fetch(url)).body
    assert len(body) == len(png())
    assert body != png()


async def test_a_body_that_drips(sim: Simulator, visitor: Visitor) -> None:
    url = await stored(visitor)
    sim.faults.add(HttpFault("GET storage", drip=0.01, drip_bytes=20))
    assert (await visitor.fetch(url)).body == png()


async def test_a_storage_that_refuses(sim: Simulator, visitor: Visitor) -> None:
    url = await stored(visitor)
    sim.faults.add(HttpFault("GET storage", status=403))
    assert [(await visitor.fetch(url)).status for _ in range(2)] == [403, 200]


async def test_a_json_answer_may_be_truncated(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(HttpFault("GET /api/user", cut=5, ending="clean"))
    assert (await visitor.get("/api/user")).body == b'{"id"'


async def test_events_are_lost_doubled_and_swapped(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(SocketFault("lose", event="execution_start"))
    sim.faults.add(SocketFault("duplicate", event="executed"))
    sim.faults.add(SocketFault("reorder", event="execution_success"))
    ears = await visitor.listen()
    await visitor.submit(plain())
    names = await ears.end()
    assert "execution_start" not in names
    assert names.count("executed") == 2
    assert names[-3:] == ["status", "execution_success", "executing"]


async def test_events_are_held_up(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(SocketFault("delay", event="execution_start", seconds=0.1))
    ears = await visitor.listen()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await visitor.submit(plain())
    await ears.end()
    assert loop.time() - begun >= 0.1


async def test_a_socket_is_dropped_in_the_middle(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(SocketFault("drop", event="executed"))
    ears = await visitor.listen()
    await visitor.submit(plain())
    while await ears.next() is not None:
        pass
    assert "executing" in ears.names()
    assert "executed" not in ears.names()
    await sim.wait_for_sockets(0)


async def test_a_socket_is_closed_with_a_code(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(SocketFault("close", event="executing", code=1012))
    ears = await visitor.listen()
    await visitor.submit(plain())
    while await ears.next() is not None:
        pass
    assert ears.socket.close_code == 1012


async def test_all_sockets_are_dropped(sim: Simulator, visitor: Visitor) -> None:
    ears = await visitor.listen()
    await ears.until("feature_flags")
    sim.drop_sockets()
    assert await ears.next() is None
    assert ears.socket.close_code == 1006


async def test_a_handshake_is_refused(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(SocketFault("refuse"))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await visitor.listen()
    assert refused.value.status == 503
    await visitor.listen()


async def test_a_stalled_socket_is_silent_and_answers_no_ping(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.faults.add(SocketFault("stall", event="execution_start"))
    url = sim.base_url / "ws" % {"token": visitor.key}
    socket = await visitor.session.ws_connect(url, heartbeat=0.1)
    await sim.wait_for_sockets(1)
    await visitor.run(plain())
    types = [message.type async for message in socket]
    assert aiohttp.WSMsgType.TEXT in types
    assert isinstance(socket.exception(), aiohttp.ServerTimeoutError)


async def test_garbage_and_too_much_come_before_a_message(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(SocketFault("garbage", event="execution_start"))
    sim.faults.add(SocketFault("oversized", event="executed", size=1000))
    ears = await visitor.listen()
    await ears.until("feature_flags")
    await visitor.submit(plain())
    received = []
    while True:
        message = await ears.socket.receive(timeout=30)
        received.append(message.data)
        if isinstance(message.data, str) and '"node": null' in message.data:
            break
    assert '{"type": "execu' in received
    assert any(isinstance(data, bytes) and len(data) == 1016 for data in received)


def test_faults_count_skip_and_have_chances() -> None:
    faults = Faults()
    faults.random.seed(1)
    fault = HttpFault("GET *", status=500)
    planned = faults.add(fault, times=2, skip=1)
    assert [faults.http("GET /x") is fault for _ in range(4)] == [False, True, True, False]
    assert (planned.happened, faults.planned) == (2, [])
    often = faults.add(fault, times=None, chance=0.5)
    hits = sum(faults.http("GET /x") is not None for _ in range(1000))
    assert 400 < hits == often.happened < 600
    faults.remove(often)
    assert faults.http("GET /x") is None
