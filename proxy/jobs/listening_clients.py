"""Clients that have asked for messages which others do not get, by member."""

from __future__ import annotations

from collections import defaultdict


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
