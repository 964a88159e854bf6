"""What is known of the programs behind jobs: how many jobs one follows, and whose a job is.

A local ComfyUI runs one job after the other, and programs rely on it: many follow one job at a
time and lose track of a second one. Without I/O and without a clock.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from proxy.jobs.models import Job
from proxy.jobs.protocol import LiveJob, SocketClosed, SocketKnown, SocketOpened
from proxy.members.member import Member, Parallelism

#: Clients of a member that are remembered, the ones that connected last; each takes some 200 bytes.
_MOST = 1000

#: A client: its member and its `client_id`.
Client: TypeAlias = tuple[str, str | None]


@dataclass(slots=True)
class _Known:
    """What is known of a client: its newest socket while that is open, and whether it tells the
    messages of several jobs apart."""

    socket: str | None = None
    several: bool = False


class Clients:
    """The clients of each member by their `client_id`: who has a socket or has had one, at
    whichever replica.

    `parallelism` holds for members that have no choice of their own; `most` bounds the clients of a
    member that are remembered.
    """

    def __init__(self, parallelism: Parallelism = "auto", *, most: int = _MOST) -> None:
        self._parallelism = parallelism
        self._most = most
        self._known: defaultdict[str, OrderedDict[str, _Known]] = defaultdict(OrderedDict)

    def hear(self, news: object) -> None:
        """Take what replicas say of their sockets."""
        match news:
            case SocketOpened(member=member, client_id=client_id, socket=socket):
                self._note(member, client_id).socket = socket
            case SocketKnown(member=member, client_id=client_id, socket=socket, several=several):
                known = self._note(member, client_id)
                known.socket = socket
                known.several |= several
            case SocketClosed(member=member, client_id=client_id, socket=socket):
                closed = self._known[member].get(client_id)
                if closed is not None and closed.socket == socket:
                    closed.socket = None

    def listens(self, member: str, client_id: str | None) -> bool:
        """Whether the client has a socket."""
        known = None if client_id is None else self._known[member].get(client_id)
        return known is not None and known.socket is not None

    def one_at_a_time(self, member: Member, client_id: str | None) -> bool:
        """Whether a job that the client submits now has to wait for the client's others.

        With `auto` those of a client do that has listened on a socket, unless the socket has
        announced more: who never listens asks for its job by id.
        """
        parallelism = member.client_parallelism or self._parallelism
        if parallelism != "auto":
            return parallelism == "one"
        known = None if client_id is None else self._known[member.name].get(client_id)
        return known is not None and not known.several

    def _note(self, member: str, client_id: str) -> _Known:
        clients = self._known[member]
        known = clients.setdefault(client_id, _Known())
        clients.move_to_end(client_id)
        if len(clients) > self._most:
            clients.popitem(last=False)
        return known


def busy(taken: Iterable[Job]) -> set[Client]:
    """The clients that have a job on an account or on its way there."""
    return {(job.member, job.client_id) for job in taken}


def waits_for_client(job: Job, busy_clients: set[Client]) -> bool:
    """Whether a job has to wait for another one of its client.

    It is not sent ahead either: the plan may turn out to run it at once.
    """
    return job.one_at_a_time and (job.member, job.client_id) in busy_clients


def interrupted(running: Sequence[LiveJob], submitter: str, client_id: str | None) -> list[LiveJob]:
    """The jobs that an interrupt without a `prompt_id` means, of a member's running ones.

    Those of the `client_id`, if one is named; else those that the same program has submitted; else
    the one that runs longest. `submitter` is what the caller's own jobs have as theirs.
    """
    if client_id is not None:
        return [job for job in running if job.client_id == client_id]
    own = [job for job in running if submitter and job.submitter == submitter]
    return own or sorted(running, key=lambda job: (job.started_at or 0, job.order))[:1]
