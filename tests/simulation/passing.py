"""What reaches a process: requests and websockets, which it answers or passes on by the rules of
the product (`AmongStandbys`, `to_leader`, `PassedSockets`), over a network that fails by halves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from proxy.api import bodies
from proxy.api.websocket import SUPERSEDED
from proxy.edge.addressing import STANDBY
from proxy.leader.forwarding import (
    LEADER_TIMEOUT,
    NOT_LEADING,
    LeaderLostError,
    NotSentError,
    check_access,
    to_leader,
)
from proxy.leader.passed_sockets import PassedSockets
from proxy.leader.standby import AmongStandbys
from proxy.storage.database import OutcomeUnknownError
from proxy.storage.leases import Lease
from proxy.translate.errors import Kind, LocalError
from proxy.translate.events import Message

if TYPE_CHECKING:
    from simulation.clients import Socket
    from simulation.replica import Parts, Replica, Work

#: The status of what may have been carried out.
_UNCONFIRMED = 504

#: Seconds between two things that are in order: what is due at once runs in any order.
_APART = 1e-6

#: Seconds for which a standby looks for the next leader of a websocket, at least.
_TRIES = 0.9 * LEADER_TIMEOUT

#: The transport of a client that is there.
_OPEN = SimpleNamespace(is_closing=lambda: False)


class GoneError(ConnectionError):
    """Raised for a request whose process is not there, or has gone before it has answered."""


class Connection:
    """Stands for the connection of a request; it `passes_on` what the leader gets of a standby."""

    def __init__(self, *, passes_on: bool = False) -> None:
        self.passes_on = passes_on
        self.prefix = SimpleNamespace(refusal=None)
        self.is_ending = False
        self.is_cut = False

    def cut(self) -> None:
        """End the connection without an answer."""
        self.is_cut = True

    def received(self, _message: Any) -> None:
        """Nothing is counted."""


class Request:
    """Stands for a request; `work` is what the handler of the leader does. One of a client that
    opens a websocket has its `socket`."""

    def __init__(
        self,
        work: Work,
        method: str = "GET",
        path: str = "/queue",
        *,
        socket: Socket | None = None,
        connection: Connection | None = None,
        again: bool = False,
    ) -> None:
        self.work = work
        self.method = method
        self.path = path
        self.socket = socket
        self.protocol = connection or Connection()
        self.again = again
        self.headers = {} if connection is None else {STANDBY: "proof"}
        if socket is not None:
            self.headers["Upgrade"] = "websocket"
        self.query = {"clientId": "" if socket is None else socket.client.client_id}

    @property
    def transport(self) -> Any:
        """The connection of the client, while it is there."""
        is_gone = self.socket is not None and self.socket.ended.is_set()
        return None if is_gone else _OPEN

    @property
    def is_repeated(self) -> bool:
        """Whether it may be sent to one leader after the other."""
        return self.method == "GET" or self.path == "/prompt"


class Answer:
    """Stands for an answer, of the leader of an epoch if of any."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.value: Any = None
        self.error: Exception | None = None
        #: Whether it was sent before its handler has ended.
        self.prepared = False
        self.own_status = 200

    @property
    def status(self) -> int:
        """The status, as that of the product."""
        if self.error is None:
            return self.own_status
        return bodies.status_of(self.error) if isinstance(self.error, LocalError) else 503


def refused(status: int) -> Answer:
    """Return the answer of a process by itself, of whose refusal a response has the status."""
    answer = Answer()
    answer.own_status = status
    if status != NOT_LEADING:
        kind: Kind = "unconfirmed" if status == _UNCONFIRMED else "unavailable"
        answer.error = LocalError("refused", "It is refused here.", kind=kind)
    return answer


class SimulatedForwarding:
    """Stands for `Forwarding`: passes the requests of a process on, with its rule."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    @property
    def leadership(self) -> Any:
        """Who leads, as far as the process knows."""
        return self._replica.leadership

    async def request(self, request: Request) -> Answer:
        """Pass a request on. Raises `LocalError`."""

        async def send(lease: Lease, *, again: bool) -> Answer:
            return await self._passed(request, lease, again=again)

        try:
            leadership = self._replica.own_leadership()
            return await to_leader(leadership, send, is_repeated=request.is_repeated)
        except LocalError as error:  # which text it has is lost in a response
            answer = Answer()
            answer.error = error
            return answer

    async def _passed(self, request: Request, lease: Lease, *, again: bool) -> Answer:
        """Send a request to a leader. Raises `NotSentError` and `LeaderLostError`."""
        replica = self._replica
        leader = await reached(replica, lease)
        weather = replica.world.weather
        if weather.chance("way_cut"):  # the leader gets nothing of it
            await asyncio.sleep(weather.draw(0.0, 1.0))
            raise LeaderLostError
        connection = Connection(passes_on=leader.leads_in(lease))
        passed = Request(
            request.work, request.method, request.path, connection=connection, again=again
        )
        asking = replica.loop.create_task(leader.answer_of(passed))
        gone = replica.loop.create_task(replica.own_leadership().superseded(lease.epoch))
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise LeaderLostError
            try:
                answer: Answer = asking.result()
            except GoneError as error:
                raise LeaderLostError from error
            if answer.status == NOT_LEADING:
                raise NotSentError
            await self._come_back(leader, gone)
            if request.path == "/prompt":
                check_access(answer.status, again=again)
            if connection.is_cut or isinstance(answer.error, OutcomeUnknownError):
                raise LeaderLostError
            return answer
        finally:
            asking.cancel()
            gone.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)

    async def _come_back(self, leader: Replica, gone: asyncio.Future[Any]) -> None:
        """Let an answer travel back, if it does; a connection that is half open hangs. Raises
        `LeaderLostError`."""
        weather = self._replica.world.weather
        if weather.chance("way_broken"):
            raise LeaderLostError
        if weather.chance("way_hangs") or weather.peer_away(leader.process, self._replica.process):
            await asyncio.wait({gone}, timeout=weather.draw(5.0, 30.0))
            raise LeaderLostError


async def reached(replica: Replica, lease: Lease) -> Replica:
    """Return the process that has a lease, once a connection to it is there. Raises
    `NotSentError`."""
    weather = replica.world.weather
    leader = replica.world.replicas[lease.address]
    await asyncio.sleep(weather.draw(0.0005, 0.01))
    is_away = weather.peer_away(replica.process, leader.process)
    if is_away or weather.chance("way_lost") or not leader.serves:
        await asyncio.sleep(weather.draw(0.0, 2.0))
        raise NotSentError
    return leader


class SimulatedPassedSockets(PassedSockets):
    """The websockets at a standby: the product relays between ends without a network."""

    def __init__(self, replica: Replica, forwarding: Any, supervisor: Any) -> None:
        super().__init__(forwarding, supervisor)
        self._replica = replica

    async def serve(self, request: Any) -> Any:
        """Pass a websocket on until it closes. Raises `LocalError`."""
        leader, epoch = await self._connect(request)
        if isinstance(leader, int):
            return refused(leader)
        client = ClientEnd(self._replica, request.socket)
        request.socket.is_passed_on(self._replica.process)
        try:
            await self._relay(request, client, leader, epoch)  # type: ignore[arg-type]
        finally:
            await leader.close()
            await client.close(code=WSCloseCode.SERVICE_RESTART)
        return Answer()

    async def _handshake(self, request: Any, lease: Lease) -> Any:
        try:
            leader = await reached(self._replica, lease)
            parts = leader.parts
            if parts is None or not leader.leads_in(lease):
                raise NotSentError
        except NotSentError:
            raise aiohttp.ClientConnectionError from None
        end = LeaderEnd(self._replica, parts, request.socket)
        await leader.in_process(end.attach)
        if end.closed:
            raise aiohttp.ClientConnectionError
        return end


class ClientEnd:
    """The end of a client's websocket at a standby."""

    def __init__(self, standby: Replica, socket: Socket) -> None:
        self._standby = standby
        self._socket = socket

    @property
    def closed(self) -> bool:
        """Whether its client or the standby has closed it."""
        return self._socket.ended.is_set()

    close_code = None

    async def send_str(self, message: Message) -> None:
        """Send a message to the client."""
        self._socket.take(message)

    async def close(self, **_: Any) -> None:
        """Close it, as the standby stops or has found no leader for long."""
        world, since = self._standby.world, self._socket.unheard_since
        stops = self._standby.leadership is None
        if not (self.closed or stops or since is None) and world.seconds - since < _TRIES:
            about = f"{self._socket.client.client_id} after {world.seconds - since:.1f} s"
            world.problems.append(("socket_dropped", about))
        self._socket.lost()

    def __aiter__(self) -> ClientEnd:
        return self

    async def __anext__(self) -> Any:
        await self._socket.ended.wait()
        raise StopAsyncIteration


class LeaderEnd:
    """The websocket of a standby at the leader, for a client: a `jobs.subscribers.Subscriber`."""

    def __init__(self, standby: Replica, parts: Parts, socket: Socket) -> None:
        self._world = standby.world
        self._parts = parts
        self._socket = socket
        self._inbox: deque[Message] = deque()
        self._news = asyncio.Event()
        self._arrives = 0.0
        self._silent = False
        self.closed = False
        self.close_code: int | None = None
        self.asks_for_previews = True
        self.number = standby.world.numbered()

    def attach(self) -> None:
        """Hear what concerns the client from now on, if the term lasts."""
        if not self._parts.term.lasts or self._parts.replica.parts is not self._parts:
            self.closed = True
            return
        self._parts.sockets.add(self)
        self._socket.attach_to(self._parts, self)

    def send(self, message: Message, *, for_all: bool) -> None:
        """Send a message to the standby."""
        del for_all
        if not self._silent:
            if self._world.weather.chance("way_cut"):
                self.lose(None)
            self._travel(self._inbox.append, message)

    def superseded(self) -> None:
        """Hear no more; its standby is told."""
        self._silent = True
        self._parts.sockets.discard(self)
        self._travel(self._replaced, SUPERSEDED)

    def _replaced(self, code: int) -> None:
        self._socket.superseded()
        self.closed, self.close_code = True, code

    def lose(self, code: int | None) -> None:
        """Let the connection end, as the leader stops with a code, or is gone."""
        self._silent = True
        self._parts.sockets.discard(self)
        self._travel(self._lost, code)

    def _lost(self, code: int | None) -> None:
        self._socket.unheard()
        self.closed, self.close_code = True, self.close_code or code

    def _travel(self, arrive: Callable[[Any], None], what: Any) -> None:
        now = self._world.loop.time()
        at = max(self._arrives + _APART, now + self._world.weather.draw(0.0005, 0.01))
        self._arrives = at
        self._world.loop.in_world(at - now, self._arrived, arrive, what)

    def _arrived(self, arrive: Callable[[Any], None], what: Any) -> None:
        if not self.closed:
            arrive(what)
            self._news.set()

    async def send_str(self, _text: str) -> None:
        """Clients announce nothing here."""

    async def close(self, **_: Any) -> None:
        """Close it from the standby's side, of which the leader hears."""
        self._socket.unheard()
        if not self.closed:
            self.closed = self._silent = True
            self._news.set()
        self._parts.sockets.discard(self)
        leader = self._parts.replica
        if leader.parts is self._parts:
            self._world.loop.in_world(0.005, leader.run_in_process, self._detach)

    def _detach(self) -> None:
        client = self._socket.client
        self._parts.jobs.subscribers.detach(client.member, client.client_id, self)

    def __aiter__(self) -> LeaderEnd:
        return self

    async def __anext__(self) -> aiohttp.WSMessage:
        while not self._inbox:
            if self.closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return aiohttp.WSMessage(WSMsgType.TEXT, self._inbox.popleft(), None)


def among(replica: Replica, leadership: Any, records: Any) -> AmongStandbys:
    """Return what answers requests of a process, by the rules of the product."""
    forwarding: Any = SimulatedForwarding(replica)

    async def no_metrics(_: Any) -> Any:
        return Answer()

    return AmongStandbys(
        leadership,
        records.database,
        forwarding,
        SimulatedPassedSockets(replica, forwarding, records.supervisor),
        lambda _proof: True,
        no_metrics,
    )
