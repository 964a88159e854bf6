"""What a process answers by itself while it stands by, and once its term is over."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import WSCloseCode, web
from backend import add_database, settings_of
from leader.passing import TIMEOUT, leader, sign, standing_by
from stack import QUICK, Client
from yarl import URL

from proxy.api.websocket import SUPERSEDED
from proxy.app import lead, new_process
from proxy.app.server import Server
from proxy.app.standbys import Listening, Standby, open_standby
from proxy.app.storage import open_records
from proxy.edge.accepting import listen
from proxy.edge.addressing import AGAIN, PROMPT_ID, SOCKET_AGE, STANDBY
from proxy.edge.connections import GOING_AWAY
from proxy.edge.context import ConnectionLimits, EdgeContext
from proxy.edge.listener import HttpListener, address_of
from proxy.engine.policy import Policy
from proxy.engine.term import Term
from proxy.leader.forwarding import NOT_LEADING
from proxy.leader.leadership import Leadership
from proxy.leader.standby import of_connection
from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.settings import AccountAccess
from proxy.simulator import Simulator
from proxy.storage.database import Database
from proxy.storage.leases import Lease


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


# --- a standby -----------------------------------------------------------------------------


async def test_no_request_should_come_to_a_standby_that_stops(
    database: Database, session: aiohttp.ClientSession
) -> None:
    async with standing_by(database) as standby:
        standby.among.stops = True
        for path in ("healthz", "readyz"):
            async with session.get(standby.url / path) as answer:
                assert answer.status == 503


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("healthz", 200, '{"status":"ok"}'),
        ("readyz", 200, '{"status":"ready","engine":"standby"}'),
        ("leader", 503, '{"leader":false}'),
        ("metrics", 200, "a page of metrics"),
    ],
)
async def test_a_standby_says_by_itself_how_it_is(
    database: Database, session: aiohttp.ClientSession, path: str, status: int, told: str
) -> None:
    async with (
        standing_by(database) as standby,
        session.get(standby.url / path) as answer,
    ):
        assert (answer.status, (await answer.text()).replace(" ", "")) == (
            status,
            told.replace(" ", ""),
        )


async def test_a_standby_that_stops_is_not_ready(
    database: Database, session: aiohttp.ClientSession
) -> None:
    async with standing_by(database) as standby:
        standby.among.stops = True
        async with session.get(standby.url / "readyz") as answer:
            assert answer.status == 503


# --- a process whose term is over ------------------------------------------------------------


@dataclass
class Ending:
    """A process that leads until `term` ends. Each request that its gate got waits in `asked` for
    its answer, a status."""

    url: URL
    term: Term
    asked: asyncio.Queue[asyncio.Future[int]]

    async def next(self) -> asyncio.Future[int]:
        """The next request."""
        async with asyncio.timeout(TIMEOUT):
            return await self.asked.get()


@pytest.fixture
async def ending(database: Database) -> AsyncIterator[Ending]:
    asked: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def gate(_: web.Request) -> web.StreamResponse:
        asked.put_nowait(status := asyncio.get_running_loop().create_future())
        return web.Response(status=await status, text="from the gate")

    async with standing_by(database) as standby:
        lease = Lease("engine", "here", 7)
        standby.leadership.term = term = Term(lease)
        context = EdgeContext(
            ConnectionLimits(),
            standby.budget,
            Directory(),
            standby.leadership.supervisor,
            is_standby=lambda proof: proof == sign(7),
        )
        listener = HttpListener(
            web.Application(),
            of_connection(standby.among.of_leader(gate)),
            context,
            logger=logging.getLogger(__name__),
            stop_timeout=1.0,
        )
        sockets = await listen(["127.0.0.1"], 0)
        await listener.start(sockets)
        yield Ending(URL(address_of(sockets, "127.0.0.1", tls=False)), term, asked)
        for listening in sockets:
            listening.close()
        await listener.stop()


PASSED = {STANDBY: sign(7)}


async def test_a_leader_answers_what_a_standby_passes_on(
    ending: Ending, session: aiohttp.ClientSession
) -> None:
    asking = asyncio.ensure_future(session.post(ending.url / "queue", headers=PASSED))
    (await ending.next()).set_result(200)
    async with await asking as answer:
        assert await answer.text() == "from the gate"


async def test_a_leader_answers_no_standby_that_takes_it_for_one_of_another_term(
    ending: Ending, session: aiohttp.ClientSession
) -> None:
    async with session.post(ending.url / "queue", headers={STANDBY: sign(6)}) as answer:
        assert answer.status == NOT_LEADING
    assert ending.asked.empty()


async def test_a_process_whose_term_is_over_answers_no_standby(
    ending: Ending, session: aiohttp.ClientSession
) -> None:
    ending.term.end()
    async with session.post(ending.url / "queue", headers=PASSED) as answer:
        assert answer.status == NOT_LEADING
    assert ending.asked.empty()


async def test_what_could_not_be_finished_in_the_term_breaks_the_connection_of_a_standby(
    ending: Ending, session: aiohttp.ClientSession
) -> None:
    """A 503 would say that nothing was carried out."""
    asking = asyncio.ensure_future(session.post(ending.url / "queue", headers=PASSED))
    request = await ending.next()
    ending.term.end()
    request.set_result(503)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await asking


async def test_what_was_carried_out_in_the_term_is_told_after_it(
    ending: Ending, session: aiohttp.ClientSession
) -> None:
    asking = asyncio.ensure_future(session.post(ending.url / "queue", headers=PASSED))
    request = await ending.next()
    ending.term.end()
    request.set_result(200)
    async with await asking as answer:
        assert answer.status == 200


async def test_what_was_read_in_a_term_that_is_over_is_read_again(
    ending: Ending, session: aiohttp.ClientSession
) -> None:
    """Another process may have changed it by now."""
    asking = asyncio.ensure_future(session.get(ending.url / "queue", headers=PASSED))
    request = await ending.next()
    ending.term.end()
    request.set_result(200)
    async with await asking as answer:
        assert answer.status == NOT_LEADING


# --- a leader and a standby ----------------------------------------------------------------


@dataclass
class Pair:
    """A leader, and a standby beside it, with a client at each. `proof` is that of a standby,
    `server` that of the leader."""

    here: Client
    beside: Client
    proof: str
    server: Server
    leadership: Leadership
    simulator: Simulator

    async def submit(self, **headers: str) -> tuple[int, Any]:
        """Submit a graph to the leader as a standby does; status and answer."""
        body = {"prompt": graphs.plain()}
        headers = {STANDBY: self.proof, **headers}
        url = self.here.url / "prompt"
        async with self.here.session.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def pair(
    tmp_path: Path, simulator: Simulator, session: aiohttp.ClientSession
) -> AsyncIterator[Pair]:
    """Both with one database and one secret, in the records of a folder."""
    await add_database(tmp_path)
    settings, limits = settings_of(tmp_path), ConnectionLimits()
    process = new_process(settings, asyncio.Event(), policy=Policy(**QUICK))
    accounts = [AccountAccess("default", simulator.base_url, simulator.key)]
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(open_records(settings, asyncio.Event()))
        both: list[Standby] = []
        urls = []
        for _ in range(2):
            sockets = await listen(["127.0.0.1"], 0)
            listening = Listening(sockets)
            stack.callback(listening.close)
            urls.append(URL(address_of(sockets, "127.0.0.1", tls=False)))
            opened = open_standby(process, records, listening, limits, accounts, stop_timeout=1.0)
            both.append(await stack.enter_async_context(opened))
        one, other = both
        await other.begin()
        stack.push_async_callback(other.stop)
        term = await one.leadership.elected()
        await stack.enter_async_context(one.leadership.leading(term))
        services = await stack.enter_async_context(lead(process, records, term, accounts=accounts))
        server = Server(services, limits, stop_timeout=1.0, among=one.among)
        await server.start(one.listeners[0][1])
        stack.push_async_callback(server.stop)
        proof = records.cipher.sign(b"standby %d" % term.lease.epoch)
        here, beside = (Client(session, url) for url in urls)
        await here.until_ready()
        yield Pair(here, beside, proof, server, one.leadership, simulator)


async def test_a_leader_is_found_by_its_answer_to_leader(pair: Pair) -> None:
    assert (await pair.here.get("leader"))[0] == 200
    assert (await pair.beside.get("leader"))[0] == 503


async def test_a_job_runs_through_a_standby(pair: Pair) -> None:
    entry = await pair.beside.run(graphs.plain())
    assert entry["status"]["completed"]
    (item,) = entry["outputs"]["2"]["images"]
    assert await pair.beside.view(item) == await pair.here.view(item)


async def test_a_standby_hears_that_a_newer_websocket_has_the_id_of_a_client(pair: Pair) -> None:
    url = (pair.here.url / "ws").with_query(clientId="one")
    async with (
        pair.here.session.ws_connect(url, headers={STANDBY: pair.proof}) as older,
        pair.here.session.ws_connect(url) as newer,
    ):
        assert (await newer.receive_json(timeout=TIMEOUT))["type"] == "status"
        assert (await older.receive_json(timeout=TIMEOUT))["type"] == "status"
        assert (await older.receive(timeout=TIMEOUT)).data == SUPERSEDED
        assert not newer.closed


@pytest.mark.parametrize("through_standby", [True, False])
async def test_a_websocket_that_comes_from_another_leader_is_no_newer_than_it_was(
    pair: Pair, through_standby: bool
) -> None:
    """An age that a client without a proof gives says nothing."""
    url = (pair.here.url / "ws").with_query(clientId="one")
    proof = {STANDBY: pair.proof} if through_standby else {}
    async with (
        pair.here.session.ws_connect(url) as newer,
        pair.here.session.ws_connect(url, headers={**proof, SOCKET_AGE: "60.000"}) as older,
    ):
        assert (await newer.receive_json(timeout=TIMEOUT))["type"] == "status"
        if through_standby:
            assert (await older.receive(timeout=TIMEOUT)).data == SUPERSEDED
        else:
            assert (await older.receive_json(timeout=TIMEOUT))["type"] == "status"


async def test_a_job_has_the_id_that_a_standby_gave_its_submission(pair: Pair) -> None:
    given = str(uuid.uuid4())
    status, answer = await pair.submit(**{PROMPT_ID: given})
    assert (status, answer["prompt_id"]) == (200, given)
    await pair.here.ended(given)


async def test_a_submission_that_is_sent_again_is_the_job_that_is_stored(pair: Pair) -> None:
    """While it lives, and once it has ended."""
    given = str(uuid.uuid4())
    _, first = await pair.submit(**{PROMPT_ID: given})
    assert await pair.submit(**{PROMPT_ID: given, AGAIN: "1"}) == (200, first)
    await pair.here.ended(given)
    assert await pair.submit(**{PROMPT_ID: given, AGAIN: "1"}) == (200, first)
    assert len(pair.simulator.jobs) == 1


async def test_a_submission_that_is_sent_again_and_is_not_stored_is_taken_in(pair: Pair) -> None:
    given = str(uuid.uuid4())
    status, answer = await pair.submit(**{PROMPT_ID: given, AGAIN: "1"})
    assert (status, answer["prompt_id"]) == (200, given)
    await pair.here.ended(given)


async def test_nobody_but_a_standby_gives_ids_to_submissions(pair: Pair) -> None:
    given = str(uuid.uuid4())
    for client in (pair.here, pair.beside):
        body, headers = {"prompt": graphs.plain()}, {PROMPT_ID: given, AGAIN: "1"}
        async with client.session.post(client.url / "prompt", json=body, headers=headers) as answer:
            assert (await answer.json())["prompt_id"] != given


async def test_a_forged_proof_counts_nothing(pair: Pair) -> None:
    """Not at a leader, and not at a standby."""
    for client in (pair.here, pair.beside):
        headers = {STANDBY: "0" * len(pair.proof)}
        async with client.session.get(client.url / "queue", headers=headers) as answer:
            assert answer.status == NOT_LEADING


@asynccontextmanager
async def retired(
    database: Database,
    session: aiohttp.ClientSession,
    next_leader: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[tuple[URL, HttpListener]]:
    """The listener of a leader that has given way to the next one, with an idle connection."""

    async def gate(_: web.Request) -> web.StreamResponse:
        return web.Response(text="from the one before")

    members = Directory()
    await members.add(Member("ann"))
    async with standing_by(database) as standby, leader(next_leader) as url:
        standby.leadership.term = Term(await standby.leads(url))
        context = EdgeContext(
            ConnectionLimits(),
            standby.budget,
            members,
            standby.leadership.supervisor,
            is_standby=lambda _: False,
        )
        listener = HttpListener(
            web.Application(),
            of_connection(standby.among.of_leader(gate, lambda: listener.is_retired)),
            context,
            logger=logging.getLogger(__name__),
            stop_timeout=1.0,
        )
        sockets = await listen(["127.0.0.1"], 0)
        await listener.start(sockets)
        own = URL(address_of(sockets, "127.0.0.1", tls=False))
        async with session.get(own / "queue") as answer:
            assert await answer.text() == "from the one before"
        await listener.retire(keep_idle=True)
        for listening in sockets:
            listening.close()
        assert len(listener.manager.counted.all()) == 1
        yield own, listener
        await listener.stop()


async def test_connections_of_a_leader_that_retires_end_with_their_next_answer(
    database: Database, session: aiohttp.ClientSession
) -> None:
    """A reverse proxy may be sending a request on one, which the next leader answers."""

    async def next_leader(request: web.Request) -> web.Response:
        return web.Response(text=f"from the next one {request.raw_path}")

    async with retired(database, session, next_leader) as (own, _):
        target = URL(f"{own}/t/abc%2F/queue?a=1&token=x%26y", encoded=True)
        async with session.get(target) as answer:
            assert await answer.text() == "from the next one /t/abc%2F/queue?a=1&token=x%26y"
            assert answer.headers["Connection"] == "close"


async def test_a_websocket_on_such_a_connection_lasts_until_the_listener_stops(
    database: Database, session: aiohttp.ClientSession
) -> None:
    async def next_leader(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async with (
        retired(database, session, next_leader) as (own, listener),
        session.ws_connect((own / "ws").with_query(clientId="a")) as socket,
    ):
        for text in ("one", "two"):
            await socket.send_str(text)
            assert await socket.receive_str() == text
        stopping = asyncio.ensure_future(listener.stop())
        closed = await socket.receive()
        assert (closed.data, closed.extra) == (WSCloseCode.SERVICE_RESTART, GOING_AWAY)
        await stopping
