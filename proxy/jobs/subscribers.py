"""Who is listening, and who hears what.

The rules are ComfyUI's: a job's messages go to the socket that has the job's `client_id`; of a
job without one, progress, previews, texts and interruptions go to every socket of the member and
the rest to nobody. `status` goes to all.

Two rules are our own. A program that was written for Comfy Cloud submits without `client_id` and
listens on a socket that it opens the cloud's way: such sockets hear all about these jobs. And a
local ComfyUI sends no previews unless it is started with
`--preview-method`, and a client that opens its socket when it has submitted already, takes every
picture on it for a result. So it gets previews only when it asks for them by its feature flags.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

from proxy.jobs.protocol import JobMessage
from proxy.translate.messages import Event, Message, Preview

#: Events of a job without `client_id` that everybody hears; of its others nobody does.
_FOR_ALL = frozenset({"progress_state", "progress", "execution_interrupted"})


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
        """A newer socket has taken the `clientId`; no message will come any more."""


@dataclass(frozen=True, slots=True)
class _Subscription:
    subscriber: Subscriber
    hears_all: bool


class Subscribers:
    """The sockets of all members by `clientId`, the newest of each."""

    def __init__(self) -> None:
        self._subscriptions: defaultdict[str, dict[str, _Subscription]] = defaultdict(dict)
        self._executing: dict[tuple[str, str], str] = {}

    def attach(
        self, member: str, client_id: str, subscriber: Subscriber, *, hears_all: bool = False
    ) -> str | None:
        """Let `subscriber` hear what concerns `client_id`; an older socket hears no more.

        With `hears_all` it hears of jobs without `client_id` as if they were its own.
        Returns the display id of the node that runs now for this client, if one does. Sends
        nothing itself, so that the caller's `status` with the `sid` can be the first message.
        """
        older = self._subscriptions[member].get(client_id)
        self._subscriptions[member][client_id] = _Subscription(subscriber, hears_all)
        if older is not None:
            older.subscriber.superseded()
        return self._executing.get((member, client_id))

    def detach(self, member: str, client_id: str, subscriber: Subscriber) -> None:
        """Forget `subscriber`, unless a newer socket has its place already."""
        subscription = self._subscriptions[member].get(client_id)
        if subscription is not None and subscription.subscriber is subscriber:
            del self._subscriptions[member][client_id]

    def listens(self, member: str, client_id: str | None) -> bool:
        """Whether there is a socket for `client_id`."""
        return client_id in self._subscriptions[member]

    def deliver(self, news: object) -> None:
        """Deliver a message about a job to those who may hear it."""
        if isinstance(news, JobMessage):
            self.tell(news.member, news.client_id, news.message, watched=news.watched)

    def tell(
        self, member: str, client_id: str | None, message: Message, *, watched: bool = True
    ) -> None:
        """Deliver a message about a job to those who may hear it.

        `watched` says that its client listened when it had submitted the job.
        """
        if client_id is not None:
            self._note_executing(member, client_id, message)
            subscription = self._subscriptions[member].get(client_id)
            if subscription is not None and (
                watched
                or not _is_mere_preview(message)
                or subscription.subscriber.asks_for_previews
            ):
                subscription.subscriber.send(message, for_all=False)
            return
        is_for_all = not isinstance(message, Event) or message.type in _FOR_ALL
        for subscription in list(self._subscriptions[member].values()):
            if subscription.hears_all:
                subscription.subscriber.send(message, for_all=False)
            elif is_for_all:
                subscription.subscriber.send(message, for_all=True)

    def broadcast(self, member: str, message: Message) -> None:
        """Deliver to every socket of the member."""
        for subscription in list(self._subscriptions[member].values()):
            subscription.subscriber.send(message, for_all=True)

    def _note_executing(self, member: str, client_id: str, message: Message) -> None:
        if isinstance(message, Event) and message.type == "executing":
            node = message.data.get("display_node")
            if node is None:
                self._executing.pop((member, client_id), None)
            else:
                self._executing[member, client_id] = node


def _is_mere_preview(message: Message) -> bool:
    return isinstance(message, Preview) and not message.result
