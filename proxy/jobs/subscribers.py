"""The sockets of members, and which messages each of them gets.

The rules are ComfyUI's: a job's messages go to the socket that has the job's `client_id`; of a
job without one, progress, previews, texts and interruptions go to every socket of the member and
the rest to nobody. `status` goes to all.

Two rules are our own. A program that was written for Comfy Cloud submits without `client_id` and
listens on a socket that it opens the cloud's way: such sockets hear all about these jobs. And a
local ComfyUI sends no previews unless it is started with
`--preview-method`, and a client that opens its socket when it has submitted already, takes every
picture on it for a result. So it gets previews only when it asks for them by its feature flags.

What goes to all sockets of a member, such as a `status` at every change of its queue, goes to a few
at once, as from a local ComfyUI. More hear it in turns, in steps that are charged to the member,
and each hears only the newest of what says the same again. A socket with something else to hear
hears the rest before that, so that the order on each of them stays.

After a start the sockets of the process before are still to come back, some through a standby that
connects them again. Until then what is told of their jobs waits for them, once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from msgspec import Struct

from proxy.jobs.clients import Clients
from proxy.jobs.message_log import LoggedMessage, MessageLog
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.loop_turns import Driver, LoopTurns
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
#: Seconds after a start in which sockets come back, so long as a standby waits for a leader.
RETURN_TIMEOUT = 15.0
#: Bytes of messages that wait for turns, where nothing else limits them.
MAX_BYTES = 16 * 1024 * 1024


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
        """Note that a newer one has taken the `clientId`, and no further message will come."""


class _Socket(Struct):
    """An open socket, since when its client has it, and the number of the last message to all that
    it was sent (`heard`)."""

    subscriber: Subscriber
    opened: float
    receives_all: bool
    heard: int


class Subscribers:
    """The sockets of all members by `clientId`, the newest of each. The `clients` hear of them.

    Messages that wait for a turn take their memory from the `budget`.
    """

    def __init__(
        self,
        clients: Clients,
        supervisor: Supervisor,
        turns: LoopTurns | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._clients = clients
        self._supervisor = supervisor
        self._loop_turns = turns or LoopTurns()
        self._budget = budget or MemoryBudget(MAX_BYTES)
        self._sockets: defaultdict[str, dict[str, _Socket]] = defaultdict(dict)
        #: What is still to be sent to sockets of members with many, and the task that sends it.
        self._logs: dict[str, MessageLog] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        #: What clients have missed whose sockets are still to come back, `None` for one that was
        #: back; and `None` when that is over.
        self._missed: dict[tuple[str, str], MessageLog | None] | None = None

    def start(self) -> None:
        """Keep for a while what is told of jobs to clients without a socket."""
        self._missed = {}
        self._supervisor.spawn(self._forget_missed(), "forget what clients have missed")

    async def _forget_missed(self) -> None:
        await asyncio.sleep(RETURN_TIMEOUT)
        missed, self._missed = self._missed or {}, None
        for log in missed.values():
            if log is not None:
                log.close()

    # --- sockets ---------------------------------------------------------------------------

    def attach(
        self,
        member: str,
        client_id: str,
        subscriber: Subscriber,
        greet: Callable[[], None] = lambda: None,
        *,
        receives_all: bool = False,
        age: float = 0.0,
    ) -> bool:
        """Let `subscriber` hear what concerns `client_id`; an older socket hears no more.

        With `receives_all` it learns of jobs without `client_id` as if they were its own. `greet`
        sends what comes first. A socket that comes from another leader has an `age` in seconds.
        Returns false if it is itself the older one.
        """
        sockets, opened = self._sockets[member], clock.monotonic() - age
        other = sockets.get(client_id)
        if other is not None and other.opened > opened:
            subscriber.superseded()
            return False
        if other is not None:
            other.subscriber.superseded()
        log = self._logs.get(member)
        heard = 0 if log is None else log.last
        sockets[client_id] = _Socket(subscriber, opened, receives_all, heard)
        greet()
        self._clients.opened(member, client_id)
        if self._missed is not None:
            missed = self._missed.get((member, client_id))
            self._missed[member, client_id] = None
            if missed is not None:
                for logged in missed.after(0):
                    subscriber.send(logged.message, for_all=False)
                missed.close()
        return True

    def detach(self, member: str, client_id: str, subscriber: Subscriber) -> None:
        """Forget `subscriber`, unless a newer socket has its place already."""
        sockets = self._sockets[member]
        socket = sockets.get(client_id)
        if socket is None or socket.subscriber is not subscriber:
            return
        del sockets[client_id]
        if not sockets:
            self._forget_log(member)
        self._clients.closed(member, client_id)

    def understands_several(self, member: str, client_id: str) -> None:
        """Note that a client's socket has announced that it tells the messages of several jobs
        apart."""
        if client_id in self._sockets[member]:
            self._clients.opened(member, client_id, several=True)

    def has(self, member: str, client_id: str) -> bool:
        """Return whether a client has an open socket."""
        return client_id in self._sockets.get(member, ())

    # --- messages --------------------------------------------------------------------------

    def send_to(self, member: str, client_id: str, message: Message) -> None:
        """Deliver a message that is about no job."""
        socket = self._sockets[member].get(client_id)
        if socket is not None:
            self._send(member, socket, message)

    def publish(
        self, member: str, client_id: str | None, message: Message, *, watched: bool = True
    ) -> None:
        """Deliver a message about a job to those who may hear it.

        `watched` says that its client listened when it had submitted the job.
        """
        if client_id is None:
            self._publish_to_all(member, message)
            return
        socket = self._sockets[member].get(client_id)
        if socket is None:
            if watched and not is_droppable(message):
                self._keep_missed(member, client_id, message)
        elif watched or not is_droppable(message) or socket.subscriber.asks_for_previews:
            self._send(member, socket, message)

    def _keep_missed(self, member: str, client_id: str, message: Message) -> None:
        """Keep a message for a client whose socket is still to come back."""
        if self._missed is None:
            return
        key = (member, client_id)
        if key not in self._missed:
            self._missed[key] = MessageLog(partial(self._budget.member, member, "socket"))
        log = self._missed[key]
        if log is not None:
            log.append(LoggedMessage(message))

    def _publish_to_all(self, member: str, message: Message) -> None:
        """Deliver a message about a job without a client to the member's sockets."""
        self._send_all(member, LoggedMessage(message, of_job=True))

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


def _send_logged(socket: _Socket, logged: LoggedMessage) -> None:
    """Send a message to a socket, if it hears it."""
    message, for_all = logged.message, True
    if logged.of_job:
        for_all = not socket.receives_all
        if for_all and isinstance(message, Event) and not _is_for_all(message):
            return
    socket.subscriber.send(message, for_all=for_all)


def _is_for_all(event: Event) -> bool:
    """Return whether an event of a job without client goes to all sockets."""
    return event.type in _FOR_ALL or is_blocked_branch(event.type, event.data)


async def _awaited(work: Awaitable[None]) -> None:
    await work


class ListeningClients:
    """The clients of each member that listen, by their `client_id`, the last `limit` ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Dictionaries instead of sets, for their order.
        self._clients: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def change(self, member: str, client_id: str, *, wants: bool) -> None:
        """Note whether a client wants to listen."""
        clients = self._clients[member]
        if wants:
            clients[client_id] = None
            if len(clients) > self._limit:
                del clients[next(iter(clients))]
        else:
            clients.pop(client_id, None)
        if not clients:
            del self._clients[member]

    def any_of(self, member: str) -> bool:
        """Return whether a client of the member listens. Other threads may call this."""
        return member in self._clients

    def of(self, member: str) -> list[str]:
        """Return the clients of a member that listen, in the order in which they began."""
        return list(self._clients.get(member, ()))
