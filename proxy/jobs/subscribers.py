"""The sockets of members, and which messages each of them gets.

The rules are ComfyUI's: a job's messages go to the socket that has the job's `client_id`; of a
job without one, progress, previews, texts and interruptions go to every socket of the member and
the rest to nobody. `status` goes to all.

Two rules are our own. A program that was written for Comfy Cloud submits without `client_id` and
listens on a socket that it opens the cloud's way: such sockets hear all about these jobs. And a
local ComfyUI sends no previews unless it is started with
`--preview-method`, and a client that opens its socket when it has submitted already, takes every
picture on it for a result. So it gets previews only when it asks for them by its feature flags.

Each replica has the sockets of its own clients, and hears only of jobs that concern them. Another
engine that takes a job over tells of its life once more: what was sent here is left out.

Every change of a member's queue is sent to all its sockets. A few hear it at once, as from a local
ComfyUI. With more that would be most of the work of a busy server, so they hear it by turns, in a
share of its time, and each hears only the newest of what changed meanwhile. A socket with something
else to hear hears its `status` before that, so that the order on each of them stays.

`LiveFeed` tells what the bus has lost.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

import msgspec
from msgspec import Struct

from proxy.bus import EventBus, Subscription
from proxy.jobs.models import (
    JobMessage,
    NewsMissed,
    NodeRuns,
    SocketClosed,
    SocketKnown,
    now,
    topic_of,
)
from proxy.storage.jobs import JobKey
from proxy.supervisor import Supervisor
from proxy.translate.events import (
    TERMINAL_EVENTS,
    Event,
    Message,
    Preview,
    is_blocked_branch,
    is_terminal,
)

#: Events of a job without `client_id` that go to all sockets, beside blocked branches; its other
#: events go to none.
_FOR_ALL = frozenset({"progress_state", "progress", "execution_interrupted"})

#: Events that a client receives once.
_ONCE = TERMINAL_EVENTS | {"execution_start", "execution_cached", "executing", "executed"}

#: Maximum number of remembered jobs whose end was sent.
_MAX_CLOSED = 10_000

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

#: Of two sockets that open within this many ms the clocks of their replicas say which is newer.
_AT_ONCE = 1000


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
    """A socket at this replica; `opened_at` is in ms since 1970, `status` the number of the last
    one that it was sent."""

    subscriber: Subscriber
    hears_all: bool
    heard: Subscription
    opened_at: int
    status: int
    id: str = msgspec.field(default_factory=lambda: uuid4().hex)
    several: bool = False


class _Delivered(Struct):
    """The messages of a live job that this replica has sent."""

    key: JobKey
    client_id: str | None
    what: set[str] = set()


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
        self._outdated: set[str] = set()
        self._turns: asyncio.Task[None] | None = None
        self._common: dict[str, Subscription] = {}
        self._delivered: dict[int, _Delivered] = {}
        self._closed: dict[int, None] = {}
        bus.subscribe("sockets", self._hear)

    # --- sockets ---------------------------------------------------------------------------

    def attach(
        self,
        member: str,
        client_id: str,
        subscriber: Subscriber,
        greet: Callable[[], None] = lambda: None,
        *,
        hears_all: bool = False,
    ) -> None:
        """Let `subscriber` hear what concerns `client_id`; an older socket hears no more, at
        whichever replica.

        With `hears_all` it learns of jobs without `client_id` as if they were its own. `greet`
        sends what comes first; after it comes the node that runs now for this client, if one does.
        """
        sockets = self._sockets[member]
        if not sockets:
            self._common[member] = self._bus.subscribe(topic_of(member, None), self.deliver)
        older = sockets.get(client_id)
        if older is not None:
            self._supersede(older)
        heard = self._bus.subscribe(topic_of(member, client_id), self.deliver)
        new = sockets[client_id] = _Socket(subscriber, hears_all, heard, now(), self._last_status)
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

    def opened_at(self, member: str, client_id: str | None) -> int | None:
        """Return since when a socket here listens for a client's jobs (ms), `None` without one."""
        if client_id is None:
            return min(
                (socket.opened_at for socket in self._sockets[member].values()), default=None
            )
        socket = self._sockets[member].get(client_id)
        return None if socket is None else socket.opened_at

    def _hear(self, news: object) -> None:
        match news:
            case SocketKnown():
                mine = self._sockets[news.member].get(news.client_id)
                if mine is None or mine.id == news.socket:
                    return
                late = now() - mine.opened_at > _AT_ONCE  # then clocks do not matter
                if news.at > mine.opened_at or (news.opens and late):
                    self._remove(news.member, news.client_id)
                    self._supersede(mine)
            case NewsMissed():
                for member, sockets in self._sockets.items():
                    for client_id, socket in sockets.items():
                        self._bus.publish("sockets", _known(member, client_id, socket))

    def _supersede(self, socket: _Socket) -> None:
        socket.heard.close()
        socket.subscriber.superseded()

    def _remove(self, member: str, client_id: str) -> None:
        """Unsubscribe a client, and forget what it was sent."""
        sockets = self._sockets[member]
        sockets.pop(client_id).heard.close()
        gone: set[str | None] = {client_id}
        if not sockets:
            self._common.pop(member).close()
            self._statuses.pop(member, None)
            gone.add(None)
        for order, delivered in list(self._delivered.items()):
            if delivered.key.member == member and delivered.client_id in gone:
                del self._delivered[order]

    # --- messages --------------------------------------------------------------------------

    def deliver(self, news: object) -> None:
        """Deliver a message about a job to those who may hear it and have not."""
        match news:
            case JobMessage(member=member, client_id=client_id, message=message):
                if self._is_new(news):
                    self.tell(member, client_id, message, watched=news.watched)
            case NodeRuns(member=member, client_id=client_id, socket=id_, node=node):
                socket = self._sockets[member].get(client_id)
                if socket is not None and socket.id == id_:
                    self._send(member, socket, Event("executing", {"node": node}))

    def tell(
        self, member: str, client_id: str | None, message: Message, *, watched: bool = True
    ) -> None:
        """Deliver a message about a job to those who may hear it.

        `watched` says that its client listened when it had submitted the job.
        """
        if client_id is not None:
            socket = self._sockets[member].get(client_id)
            if socket is not None and (
                watched or not _is_mere_preview(message) or socket.subscriber.asks_for_previews
            ):
                self._send(member, socket, message)
            return
        is_for_all = not isinstance(message, Event) or (
            message.type in _FOR_ALL or is_blocked_branch(message.type, message.data)
        )
        for socket in list(self._sockets[member].values()):
            if socket.hears_all or is_for_all:
                self._send(member, socket, message, for_all=not socket.hears_all)

    def broadcast(self, member: str, message: Message) -> None:
        """Deliver to every socket of the member; a `status` to many by turns."""
        sockets = list(self._sockets[member].values())
        if len(sockets) <= FEW or not isinstance(message, Event) or message.type != "status":
            for socket in sockets:
                self._send(member, socket, message, for_all=True)
            return
        self._last_status += 1
        self._statuses[member] = self._last_status, message
        self._outdated.add(member)
        if self._turns is None:
            self._turns = self._supervisor.spawn(self._take_turns(), "status by turns")

    def _send(
        self, member: str, socket: _Socket, message: Message, *, for_all: bool = False
    ) -> None:
        self._send_status(member, socket)
        socket.subscriber.send(message, for_all=for_all)

    def _send_status(self, member: str, socket: _Socket) -> None:
        """Send the newest `status` to a socket whose turn has not come."""
        number, message = self._statuses.get(member, (0, None))
        if message is not None and socket.status < number:
            socket.status = number
            socket.subscriber.send(message, for_all=True)

    async def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._outdated:
                await asyncio.sleep(GATHER)
                members, self._outdated = self._outdated, set()
                for member in members:
                    sockets = self._sockets[member]
                    client_ids = list(sockets)
                    for start in range(0, len(client_ids), STRETCH):
                        begun = loop.time()
                        for client_id in client_ids[start : start + STRETCH]:
                            if client_id in sockets:
                                self._send_status(member, sockets[client_id])
                        await asyncio.sleep(0)  # here they write
                        pause = (loop.time() - begun) * (1 / SHARE - 1)
                        await asyncio.sleep(min(pause, LONGEST_PAUSE))
        finally:
            self._turns = None  # what is broadcast next starts it again

    # --- what was sent ---------------------------------------------------------------------

    def unfinished(self) -> list[tuple[int, JobKey]]:
        """Return the jobs whose messages were sent here, but not their end, by their order."""
        return [(order, delivered.key) for order, delivered in self._delivered.items()]

    def is_over(self, order: int) -> bool:
        """Return whether all messages of a job have been sent here."""
        return order in self._closed

    def close_job(self, order: int) -> None:
        """Send no more messages of a job."""
        self._delivered.pop(order, None)
        self._closed[order] = None
        if len(self._closed) > _MAX_CLOSED:
            del self._closed[next(iter(self._closed))]

    def _is_new(self, news: JobMessage) -> bool:
        order, message = news.order, news.message
        if order in self._closed:
            return False
        if not isinstance(message, Event) or message.type not in _ONCE or not order:
            return True
        delivered = self._delivered.get(order)
        if delivered is None:
            key = JobKey(news.member, news.prompt_id)
            delivered = self._delivered[order] = _Delivered(key, news.client_id)
        type_ = message.type
        if type_ == "executing":
            node = message.data["node"]
            if node is None:
                self.close_job(order)
                return True
            return f"executed {node}" not in delivered.what
        if type_ == "executed":
            type_ = f"executed {message.data['node']}"
        elif type_ == "execution_error" and not is_terminal(type_, message.data):
            type_ = f"execution_error {message.data['node_id']}"
        elif type_ not in ("execution_start", "execution_cached"):
            type_ = "end"
        if type_ in delivered.what:
            return False
        delivered.what.add(type_)
        return True


def _known(member: str, client_id: str, socket: _Socket, *, opens: bool = False) -> SocketKnown:
    return SocketKnown(member, client_id, socket.id, socket.opened_at, socket.several, opens)


def _is_mere_preview(message: Message) -> bool:
    return isinstance(message, Preview) and not message.result
