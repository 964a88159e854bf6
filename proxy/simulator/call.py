"""One request on its way to a handler, and what handlers need of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from proxy.simulator.account import SimulatedAccount
from proxy.simulator.errors import bad_request, flat, not_found, too_large, unauthorized
from proxy.simulator.jobs import SimulatedJob
from proxy.simulator.queue import SimulatedQueue
from proxy.simulator.switches import Switches
from proxy.simulator.world import Tenant, World
from proxy.translate import codec

_T = TypeVar("_T")
#: Largest body where the documents name no other limit.
MAX_BODY = 8 * 1024 * 1024


#: The cookie that has the deployment which was picked.
PICK_COOKIE = "comfy_deployment"


class RouteAccess(Enum):
    """Who may use a route."""

    PUBLIC = "anybody"
    ACCOUNT = "any account"
    PAID = "accounts whose plan has access by API"
    CONTROL = "any account, whatever the cloud refuses it"


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `visitor` is whose credential it carries; on public routes there may be none."""

    request: web.Request
    world: World
    visitor: Tenant | None

    @property
    def tenant(self) -> Tenant:
        """Whose credential it carries. Raises `Refusal` (401)."""
        if self.visitor is None:
            raise unauthorized()
        return self.visitor

    @property
    def picked(self) -> bool:
        """Whether it comes with the pick of a deployment, which counts."""
        followed = self.switches.deployment_pick == "followed"
        return followed and PICK_COOKIE in self.request.cookies

    @property
    def account(self) -> SimulatedAccount:
        """The account of the credential."""
        return self.tenant.account

    @property
    def queue(self) -> SimulatedQueue:
        """The account's queue."""
        return self.tenant.queue

    @property
    def switches(self) -> Switches:
        """The switches of the simulator."""
        return self.world.switches

    def path(self, name: str) -> str:
        """Return a variable part of the path, unescaped."""
        return self.request.match_info[name]

    def number(
        self, name: str, default: int, low: int | None = None, high: int | None = None
    ) -> int:
        """Return an integer of the query. Raises `Refusal` (400) for text or outside of the
        bounds."""
        text = self.request.query.get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise bad_request(f"{name} must be an integer") from None
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise bad_request(f"{name} must be {bounds}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one word of the query, the first of the choices by default. Raises `Refusal`
        (400)."""
        value = self.request.query.get(name, choices[0])
        if value not in choices:
            raise bad_request(f"{name} must be one of {', '.join(choices)}")
        return value

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """Read the whole body. Raises `Refusal` (400 if it breaks off, 413)."""
        data = bytearray()
        try:
            async for chunk in self.request.content.iter_chunked(1 << 18):
                data += chunk
                if len(data) > limit:
                    raise too_large(f"the body is larger than {limit} bytes")
        except ConnectionError:  # the client is gone
            raise bad_request("the body breaks off") from None
        return bytes(data)

    async def json(self, type_: type[_T], limit: int = MAX_BODY) -> _T:
        """Return the body as JSON of that type. Raises `Refusal` (400, 413)."""
        try:
            return msgspec.convert(codec.loads(await self.body(limit)), type_)
        except ValueError as error:
            raise bad_request(f"invalid request body: {error}") from None

    def job(self, name: str = "id") -> SimulatedJob:
        """Return the job that the path names. Raises `Refusal` (400 no UUID, 403 foreign, 404)."""
        job_id = self.path(name)
        if not is_uuid(job_id):
            raise bad_request(f"{job_id!r} is not a UUID")
        job = self.account.jobs.get(job_id)
        if job is None:
            if job_id in self.world.jobs:
                raise flat(403, "FORBIDDEN", "the job belongs to somebody else")
            raise not_found("job not found")
        return job


Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class SimulatedRoute:
    """An entry of the table of routes."""

    method: str
    path: str
    handler: Handler
    access: RouteAccess = RouteAccess.ACCOUNT


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer."""
    return web.Response(
        body=codec.dump_bytes(value),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


def bare(switches: Switches) -> web.Response:
    """Return a 200 whose body no document describes."""
    return answer({}) if switches.bare_answers == "object" else web.Response()


def is_uuid(text: str) -> bool:
    """Return whether the text is a UUID in its 36 characters."""
    try:
        return len(text) == 36 and bool(UUID(text))
    except ValueError:
        return False
