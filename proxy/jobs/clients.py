"""What is known of the programs behind jobs: how many jobs one follows, and whose a job is.

A local ComfyUI runs one job after the other, and programs rely on it: many follow one job at a
time and lose track of a second one. Without I/O and without a clock.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from proxy.jobs.models import Job
from proxy.jobs.protocol import LiveJob
from proxy.members.member import Member, Parallelism

#: Clients of a member that are remembered, the ones that connected last; each takes some 200 bytes.
_MOST = 1000

#: A client: its member and its `client_id`.
Client: TypeAlias = tuple[str, str | None]


class Clients:
    """The clients of each member by their `client_id`: who has a socket or has had one.

    `parallelism` holds for members that have no choice of their own; `most` bounds the clients of a
    member that are remembered.
    """

    def __init__(self, parallelism: Parallelism = "auto", *, most: int = _MOST) -> None:
        self._parallelism = parallelism
        self._most = most
        self._several: defaultdict[str, OrderedDict[str, bool]] = defaultdict(OrderedDict)

    def connected(self, member: str, client_id: str) -> None:
        """A client has opened a socket."""
        self._note(member, client_id, self._several[member].get(client_id, False))

    def understands_several(self, member: str, client_id: str) -> None:
        """A client's socket has announced that it tells the messages of several jobs apart."""
        self._note(member, client_id, True)

    def one_at_a_time(self, member: Member, client_id: str | None) -> bool:
        """Whether a job that the client submits now has to wait for the client's others.

        With `auto` those of a client do that has listened on a socket, unless the socket has
        announced more: who never listens asks for its job by id.
        """
        parallelism = member.client_parallelism or self._parallelism
        if parallelism != "auto":
            return parallelism == "one"
        return client_id is not None and not self._several[member.name].get(client_id, True)

    def _note(self, member: str, client_id: str, several: bool) -> None:
        clients = self._several[member]
        clients[client_id] = several
        clients.move_to_end(client_id)
        if len(clients) > self._most:
            clients.popitem(last=False)


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
