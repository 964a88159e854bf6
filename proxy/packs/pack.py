"""A pack: node classes, how they and their results are rewritten, and routes.

A handler of a route gets a `PackCall` and the `PackServices`, and returns a reply that the call
makes. It raises `LocalError` or `StorageError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from proxy.catalog.service import Catalog
from proxy.packs.nodes import PackNode
from proxy.packs.notices import Notices
from proxy.packs.store import PictureStore
from proxy.packs.workflows import WorkflowExchange
from proxy.userdata.stored import StoredUserData


class PackReply(Protocol):
    """The answer to a request."""

    @property
    def status(self) -> int:
        """The HTTP status."""


class PackCall(Protocol):
    """A request of a `member` to a route of a pack.

    `path` has the parts of the path that the route names, `query` the parameters behind it, and
    `content_type` is the type that the body has by its header, or empty.
    """

    member: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    content_type: str

    def integer(self, name: str, default: int) -> int:
        """Return an integer of the query. Raises `LocalError` in Python's words."""

    async def read_json(self) -> Any:
        """Return the body. Raises `LocalError` for what is not JSON or too large."""

    async def read_object(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object. Raises `LocalError`."""

    def upload(self) -> AbstractAsyncContextManager[bytes]:
        """Give the body as an upload of the member, which counts unless the block raises.

        Raises `LocalError` beyond the member's limits, `StorageError`.
        """

    async def cancel(self, prompt_id: str) -> None:
        """Cancel a job of the member, if there is one of this id."""

    def parse(self, data: bytes) -> Any:
        """Return the value of JSON that the member has stored. Raises `LocalError`."""

    def json(self, value: object, status: int = 200) -> PackReply:
        """Return a reply of JSON."""

    async def computed(self, work: Callable[[], object]) -> PackReply:
        """Return a reply of JSON with the result of work, which is done in a thread.

        Raises what the work does.
        """

    def text(self, text: str, status: int = 200) -> PackReply:
        """Return a reply of text."""

    async def send(self, data: bytes, content_type: str) -> PackReply:
        """Send a reply of content, and return when the client has it."""


@dataclass(frozen=True, eq=False)
class PackServices:
    """What the routes of packs stand on."""

    pictures: PictureStore
    catalog: Catalog
    userdata: StoredUserData
    workflows: WorkflowExchange
    notices: Notices


Handler: TypeAlias = Callable[[PackCall, PackServices], Awaitable[PackReply]]


class PackRoute(Struct, frozen=True):
    """A route of a pack; with a `twin` it answers below `/api` as well.

    With `plain_errors` the answers to refusals are `{"error": text}`. With `reads_late` a client
    that waits for "100 Continue" gets it when the handler reads the body, if it does.
    """

    method: str
    path: str
    handler: Handler
    twin: bool = True
    plain_errors: bool = False
    reads_late: bool = False


class Pack(Struct, frozen=True):
    """A pack of nodes that clients bring along, which the proxy stands in for.

    An entry point of its distribution registers it (`proxy.packs.discovery`); docs/node-packs.md
    has an example.
    """

    name: str
    nodes: tuple[PackNode, ...] = ()
    routes: tuple[PackRoute, ...] = ()
