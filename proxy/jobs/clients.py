"""The clients of members: which have a socket, and which follow several jobs at a time."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

from msgspec import Struct

from proxy.members.member import Member, Parallelism


class _Known(Struct):
    """A client: whether it has an open socket, and tells the messages of several jobs apart."""

    listens: bool = False
    several: bool = False


class Clients:
    """The clients of each member by their `client_id`, with or without an open socket.

    A local ComfyUI runs one job after the other, and programs rely on it: many follow one job at a
    time and lose track of a second one. `parallelism` holds for members that have no choice of
    their own; `limit` bounds the clients of a member that are remembered, each with some 200 bytes.
    """

    def __init__(self, parallelism: Parallelism = "auto", *, limit: int = 1000) -> None:
        self._parallelism = parallelism
        self._limit = limit
        self._known: defaultdict[str, OrderedDict[str, _Known]] = defaultdict(OrderedDict)

    def opened(self, member: str, client_id: str, *, several: bool = False) -> None:
        """Note that a client has an open socket, and whether it has announced that it tells the
        messages of several jobs apart."""
        known = self._kept(member, client_id)
        known.listens = True
        known.several |= several

    def closed(self, member: str, client_id: str) -> None:
        """Note that a client has no open socket any more."""
        if (known := self._known[member].get(client_id)) is not None:
            known.listens = False

    def listens(self, member: str, client_id: str | None) -> bool:
        """Return whether the client has a socket."""
        known = None if client_id is None else self._known[member].get(client_id)
        return known is not None and known.listens

    def one_at_a_time(self, member: Member, client_id: str | None) -> bool:
        """Return whether a job that the client submits now has to wait for the client's other jobs.

        With `auto` those of a client do that has listened on a socket, unless the socket has
        announced more: who never listens asks for its job by id.
        """
        parallelism = member.client_parallelism or self._parallelism
        if parallelism != "auto":
            return parallelism == "one"
        known = None if client_id is None else self._known[member.name].get(client_id)
        return known is not None and not known.several

    def _kept(self, member: str, client_id: str) -> _Known:
        clients = self._known[member]
        known = clients.setdefault(client_id, _Known())
        clients.move_to_end(client_id)
        if len(clients) > self._limit:
            clients.popitem(last=False)
        return known
