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

What goes to all sockets of a member, such as a `status` at every change of its queue, goes to a few
at once, as from a local ComfyUI. More hear it in turns, in steps that are charged to the member,
and each hears only the newest of what says the same again. A socket with something else to hear
hears the rest before that, so that the order on each of them stays.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Struct

from proxy import randomness
from proxy.budget import MemoryBudget
from proxy.bus import EventBus, Subscription
from proxy.clock import now
from proxy.jobs.job_deliveries import JobDeliveries
from proxy.jobs.message_log import LoggedMessage, MessageLog
from proxy.jobs.messages import (
    ClientMessage,
    JobMessage,
    NewsMissed,
    SocketClosed,
    SocketKnown,
    topic_of,
)
from proxy.loop_turns import Driver, LoopTurns
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

#: Up to this many sockets of a member get at once what all get.
FEW = 16
#: Seconds for which a `status` is gathered before more get it: at least, and for each socket, so
#: that this takes a small share of the time.
GATHER, GATHER_EACH = 0.2, 0.0004
#: Bytes of messages that wait for turns, where nothing else limits them.
MAX_BYTES = 16 * 1024 * 1024


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
    """A socket at this replica. `opened_at` (ms since 1970) and `ended` are its `Moment`, `heard`
    is the number of the last message to all that it was sent."""

    subscriber: Subscriber
    hears_all: bool
    subscription: Subscription
    opened_at: int
    ended: int | None
    heard: int
    id: str = msgspec.field(default_factory=lambda: randomness.uuid4().hex)
    several: bool = False


class Subscribers:
    """The sockets of all members by `clientId`, the newest of each.

    Messages that wait for a turn take their memory from the `budget`.
    """

    def __init__(
        self,
        bus: EventBus,
        supervisor: Supervisor,
        turns: LoopTurns | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._bus = bus
        self._supervisor = supervisor
        self._loop_turns = turns or LoopTurns()
        self._budget = budget or MemoryBudget(MAX_BYTES)
        self._sockets: defaultdict[str, dict[str, _Socket]] = defaultdict(dict)
        #: What is still to be sent to sockets of members with many, and the task that sends it.
        self._logs: dict[str, MessageLog] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
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
        log = self._logs.get(member)
        heard = 0 if log is None else log.last
        new = sockets[client_id] = _Socket(subscriber, hears_all, subscription, at, ended, heard)
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
            self._forget_log(member)
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
        self._send_all(member, LoggedMessage(message, of_job=True, before=before))

    def broadcast(self, member: str, message: Message) -> None:
        """Deliver to every socket of the member, to many in turns."""
        self._send_all(member, LoggedMessage(message))

    def _send_all(self, member: str, logged: LoggedMessage) -> None:
        sockets = self._sockets[member]
        if len(sockets) <= FEW or not self._log(member, logged):
            for socket in list(sockets.values()):
                self._catch_up(member, socket)
                _send_logged(socket, logged)

    def _send(self, member: str, socket: _Socket, message: Message) -> None:
        self._catch_up(member, socket)
        socket.subscriber.send(message, for_all=False)

    def _catch_up(self, member: str, socket: _Socket) -> None:
        """Send to a socket what its turn has not come for."""
        if not self._logs:  # no member has many sockets
            return
        log = self._logs.get(member)
        if log is not None and socket.heard < log.last:
            missed, socket.heard = list(log.after(socket.heard)), log.last
            for logged in missed:
                _send_logged(socket, logged)

    def _log(self, member: str, logged: LoggedMessage) -> bool:
        """Let sockets get a message in their turns. Return whether there is memory for it."""
        log = self._logs.get(member)
        if log is None:
            log = MessageLog(partial(self._budget.member, member, "socket"))
            self._logs[member] = log
            for socket in self._sockets[member].values():
                socket.heard = 0
        if not log.append(logged):
            return False
        if member not in self._sending:
            account = self._loop_turns.of_member(member)
            driver = Driver(self._loop_turns, account, "")
            sending = driver.drive(self._send_in_turns(member, log, driver))
            self._sending[member] = self._supervisor.spawn(_awaited(sending), "send to sockets")
        return True

    async def _send_in_turns(self, member: str, log: MessageLog, driver: Driver) -> None:
        """Send what is logged to all sockets of a member; others go on meanwhile."""
        try:
            while len(log):
                if log.has_only_status:
                    await asyncio.sleep(max(GATHER, GATHER_EACH * len(self._sockets[member])))
                until = log.last
                for socket in list(self._sockets[member].values()):
                    self._catch_up(member, socket)
                    await driver.give_way()
                log.trim(until)
        finally:  # what is logged next starts it again
            self._sending.pop(member, None)

    def _forget_log(self, member: str) -> None:
        if (log := self._logs.pop(member, None)) is not None:
            log.close()

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


def _send_logged(socket: _Socket, logged: LoggedMessage) -> None:
    """Send a message to a socket, if it hears it."""
    message, for_all = logged.message, True
    if logged.before is not None and not _opened_before(socket, logged.before):
        return
    if logged.of_job:
        for_all = not socket.hears_all
        if for_all and isinstance(message, Event) and not _is_for_all(message):
            return
    socket.subscriber.send(message, for_all=for_all)


def _is_for_all(event: Event) -> bool:
    """Return whether an event of a job without client goes to all sockets."""
    return event.type in _FOR_ALL or is_blocked_branch(event.type, event.data)


async def _awaited(work: Awaitable[None]) -> None:
    await work
