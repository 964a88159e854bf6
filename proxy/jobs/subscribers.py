"""The sockets of members, and which messages each of them gets.

The rules are ComfyUI's: a job's messages go to the socket that has the job's `client_id`; of a
job without one, progress, previews, texts and interruptions go to every socket of the member and
the rest to nobody. `status` goes to all.

Two rules are our own. A program that was written for Comfy Cloud submits without `client_id` and
listens on a socket that it opens the cloud's way: such sockets hear all about these jobs. And a
local ComfyUI sends no previews unless it is started with
`--preview-method`, and a client that opens its socket when it has submitted already, takes every
picture on it for a result. So it gets previews only when it asks for them by its feature flags.

Each replica has the sockets of its own clients, and hears only of jobs that concern them. With a
bus between replicas, `JobDeliveries` keep the messages of each job in order: nothing is sent twice,
and what the bus has lost is sent before what follows it.

Every change of a member's queue is sent to all its sockets. A few hear it at once, as from a local
ComfyUI. With more that would be most of the work of a busy server, so they hear it by turns, in a
share of its time, and each hears only the newest of what changed meanwhile. A socket with something
else to hear hears its `status` before that, so that the order on each of them stays.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Struct

from proxy import randomness
from proxy.bus import EventBus, Subscription
from proxy.clock import now
from proxy.jobs.job_deliveries import JobDeliveries
from proxy.jobs.messages import (
    ClientMessage,
    JobMessage,
    NewsMissed,
    SocketClosed,
    SocketKnown,
    topic_of,
)
from proxy.storage.job_tables import JobKey
from proxy.supervisor import Supervisor
from proxy.translate.events import (
    Event,
    Message,
    is_blocked_branch,
    is_droppable,
)

#: Events of a job without `client_id` that go to all sockets, beside blocked branches; its other
#: events go to none.
_FOR_ALL = frozenset({"progress_state", "progress", "execution_interrupted"})

#: Up to this many sockets of a member get every `status` at once.
FEW = 16
#: Seconds for which the `status` of the others is gathered.
GATHER = 0.2
#: How many of the others are served without a pause.
STRETCH = 50
#: The share of the time that goes to them.
SHARE = 0.1
#: Maximum seconds between two stretches: the measured time includes the work of others.
LONGEST_PAUSE = 0.05


class Moment(NamedTuple):
    """When a socket opened: by the clock of the database (ms since 1970), and after how many ends
    of its member's jobs; `None` if that is not known."""

    at: int
    ended: int | None


class Subscriber(Protocol):
    """A client's socket, as far as messages need it."""

    def send(self, message: Message, *, for_all: bool) -> None:
        """Take a message at once, without waiting and without failing.

        `for_all` says that the job has no `client_id`; previews then go out as type 1, whatever
        the socket asked for.
        """

    @property
    def asks_for_previews(self) -> bool:
        """Whether the client's feature flags say that it knows previews."""

    def superseded(self) -> None:
        """Close the socket: a newer one has taken the `clientId`, and no further message will
        come."""


class _Socket(Struct):
    """A socket at this replica. `opened_at` (ms since 1970) and `ended` are its `Moment`, `status`
    is the number of the last one that it was sent."""

    subscriber: Subscriber
    hears_all: bool
    subscription: Subscription
    opened_at: int
    ended: int | None
    status: int
    id: str = msgspec.field(default_factory=lambda: randomness.uuid4().hex)
    several: bool = False


class Subscribers:
    """The sockets of all members by `clientId`, the newest of each."""

    def __init__(self, bus: EventBus, supervisor: Supervisor) -> None:
        self._bus = bus
        self._supervisor = supervisor
        self._sockets: defaultdict[str, dict[str, _Socket]] = defaultdict(dict)
        #: The newest `status` of each member with many sockets, and its number.
        self._statuses: dict[str, tuple[int, Message]] = {}
        self._last_status = 0
        #: Members with sockets that lack the newest `status`.
        self._outdated: dict[str, None] = {}
        self._turns: asyncio.Task[None] | None = None
        self._common: dict[str, Subscription] = {}
        #: What was sent of jobs whose messages the bus brings.
        self.deliveries = JobDeliveries()
        bus.subscribe("sockets", self._receive)

    # --- sockets ---------------------------------------------------------------------------

    def attach(
        self,
        member: str,
        client_id: str,
        subscriber: Subscriber,
        greet: Callable[[], None] = lambda: None,
        *,
        hears_all: bool = False,
        opened: Moment | None = None,
    ) -> None:
        """Let `subscriber` hear what concerns `client_id`; an older socket hears no more, at
        whichever replica.

        With `hears_all` it learns of jobs without `client_id` as if they were its own. `greet`
        sends what comes first; after it comes the node that runs now for this client, if one does.
        `opened` is when it opened, by what all replicas share.
        """
        sockets = self._sockets[member]
        if not sockets:
            self._common[member] = self._bus.subscribe(topic_of(member, None), self.deliver)
        older = sockets.get(client_id)
        if older is not None:
            self._supersede(older)
        subscription = self._bus.subscribe(topic_of(member, client_id), self.deliver)
        at, ended = opened or Moment(now(), None)
        new = sockets[client_id] = _Socket(
            subscriber, hears_all, subscription, at, ended, self._last_status
        )
        greet()
        self._bus.publish("sockets", _known(member, client_id, new, opens=True))

    def detach(self, member: str, client_id: str, subscriber: Subscriber) -> None:
        """Forget `subscriber`, unless a newer socket has its place already."""
        socket = self._sockets[member].get(client_id)
        if socket is not None and socket.subscriber is subscriber:
            self._remove(member, client_id)
            self._bus.publish("sockets", SocketClosed(member, client_id, socket.id))

    def understands_several(self, member: str, client_id: str) -> None:
        """Note that a client's socket has announced that it tells the messages of several jobs
        apart."""
        socket = self._sockets[member].get(client_id)
        if socket is not None:
            socket.several = True
            self._bus.publish("sockets", _known(member, client_id, socket))

    def members(self) -> list[str]:
        """Return the members that have sockets here."""
        return [member for member, sockets in self._sockets.items() if sockets]

    def listens(self, member: str, client_id: str | None) -> bool:
        """Return whether a socket here listens for a client's jobs."""
        return bool(self._listeners(member, client_id))

    def opened_before(self, member: str, client_id: str | None, ordinal: int) -> bool:
        """Return whether a socket for a client's jobs has opened here before this end of the
        member."""
        return any(_opened_before(socket, ordinal) for socket in self._listeners(member, client_id))

    def _listeners(self, member: str, client_id: str | None) -> list[_Socket]:
        sockets = self._sockets.get(member, {})
        if client_id is None:
            return list(sockets.values())
        return [sockets[client_id]] if client_id in sockets else []

    def ends_before(self, member: str) -> int | None:
        """Return after how many ends of the member the first of its sockets here has opened; `None`
        if that is not known."""
        known = [
            socket.ended for socket in self._sockets[member].values() if socket.ended is not None
        ]
        return min(known, default=None)

    def _receive(self, news: object) -> None:
        match news:
            case SocketKnown():
                mine = self._sockets[news.member].get(news.client_id)
                if mine is None or mine.id == news.socket:
                    return
                if (news.at, news.socket) > (mine.opened_at, mine.id):
                    self._remove(news.member, news.client_id)
                    self._supersede(mine)
            case NewsMissed():
                for member, sockets in self._sockets.items():
                    for client_id, socket in sockets.items():
                        self._bus.publish("sockets", _known(member, client_id, socket))

    def _supersede(self, socket: _Socket) -> None:
        socket.subscription.close()
        socket.subscriber.superseded()

    def _remove(self, member: str, client_id: str) -> None:
        """Unsubscribe a client, and forget what it was sent."""
        sockets = self._sockets[member]
        sockets.pop(client_id).subscription.close()
        gone: set[str | None] = {client_id}
        if not sockets:
            self._common.pop(member).close()
            self._statuses.pop(member, None)
            gone.add(None)
        self.deliveries.forget(member, gone)

    # --- messages --------------------------------------------------------------------------

    def deliver(self, news: object) -> None:
        """Deliver a message to those who may hear it and have not."""
        match news:
            case JobMessage(key=key, client_id=client_id, message=message):
                if self.deliveries.receive(news):
                    self.tell(key.member, client_id, message, watched=news.watched)
            case ClientMessage():
                self.tell_client(news)

    def tell_client(self, news: ClientMessage) -> None:
        """Deliver a message that is about no job."""
        socket = self._sockets[news.member].get(news.client_id)
        if socket is not None and news.socket in (None, socket.id):
            self._send(news.member, socket, news.message)

    def tell(
        self, member: str, client_id: str | None, message: Message, *, watched: bool = True
    ) -> None:
        """Deliver a message about a job to those who may hear it.

        `watched` says that its client listened when it had submitted the job.
        """
        if client_id is None:
            self._tell_all(member, message)
            return
        socket = self._sockets[member].get(client_id)
        if socket is not None and (
            watched or not is_droppable(message) or socket.subscriber.asks_for_previews
        ):
            self._send(member, socket, message)

    def _tell_all(self, member: str, message: Message, before: int | None = None) -> None:
        """Deliver a message about a job without a client to the member's sockets; only to those
        that have opened before an end of the member, if that is given."""
        is_for_all = not isinstance(message, Event) or (
            message.type in _FOR_ALL or is_blocked_branch(message.type, message.data)
        )
        for socket in list(self._sockets[member].values()):
            if before is not None and not _opened_before(socket, before):
                continue
            if socket.hears_all or is_for_all:
                self._send(member, socket, message, for_all=not socket.hears_all)

    def broadcast(self, member: str, message: Message) -> None:
        """Deliver to every socket of the member; a `status` to many by turns."""
        sockets = self._sockets[member]
        if len(sockets) > FEW and isinstance(message, Event) and message.type == "status":
            self._send_by_turns(member, message)
            return
        for socket in list(sockets.values()):
            self._send(member, socket, message, for_all=True)

    def _send_by_turns(self, member: str, message: Message) -> None:
        """Send a `status` to each socket in its turn, unless a newer one comes before."""
        self._last_status += 1
        self._statuses[member] = self._last_status, message
        self._outdated[member] = None
        if self._turns is None:
            self._turns = self._supervisor.spawn(self._send_in_turns(), "status by turns")

    def _send(
        self, member: str, socket: _Socket, message: Message, *, for_all: bool = False
    ) -> None:
        if self._statuses:  # some member has many sockets
            self._send_status(member, socket)
        socket.subscriber.send(message, for_all=for_all)

    def _send_status(self, member: str, socket: _Socket) -> None:
        """Send the newest `status` to a socket whose turn has not come."""
        number, message = self._statuses.get(member, (0, None))
        if message is not None and socket.status < number:
            socket.status = number
            socket.subscriber.send(message, for_all=True)

    async def _send_in_turns(self) -> None:
        try:
            while self._outdated:
                await asyncio.sleep(GATHER)
                members, self._outdated = self._outdated, {}
                for member in members:
                    await self._send_statuses(member)
        finally:
            self._turns = None  # what is broadcast next starts it again

    async def _send_statuses(self, member: str) -> None:
        """Send the newest `status` to the sockets of a member, a stretch of them in a turn."""
        loop, sockets = asyncio.get_running_loop(), self._sockets[member]
        client_ids = list(sockets)
        for start in range(0, len(client_ids), STRETCH):
            begun = loop.time()
            for client_id in client_ids[start : start + STRETCH]:
                if client_id in sockets:
                    self._send_status(member, sockets[client_id])
            await asyncio.sleep(0)  # here they write
            pause = (loop.time() - begun) * (1 / SHARE - 1)
            await asyncio.sleep(min(pause, LONGEST_PAUSE))

    # --- what was missed -------------------------------------------------------------------

    def end(
        self, order: int, key: JobKey, client_id: str | None, ordinal: int, life: Iterable[Message]
    ) -> bool:
        """Deliver what sockets have not had of the `life` of a job that has ended, as the `ordinal`
        end of its member; return whether there was any."""
        delivery = self.deliveries.expect(order, key, client_id)
        if delivery is None:
            return False
        begun = bool(delivery.sent or delivery.sent_before)
        due = begun or self.opened_before(key.member, client_id, ordinal)
        rest = list(delivery.rest_of(life)) if due else []
        self.deliveries.close(order)
        for message in rest:
            if client_id is None:
                self._tell_all(key.member, message, before=ordinal)
            else:
                self.tell(key.member, client_id, message)
        return bool(rest)


def _known(member: str, client_id: str, socket: _Socket, *, opens: bool = False) -> SocketKnown:
    return SocketKnown(member, client_id, socket.id, socket.opened_at, socket.several, opens)


def _opened_before(socket: _Socket, ordinal: int) -> bool:
    return socket.ended is None or socket.ended < ordinal
