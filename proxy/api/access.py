"""The door: who is behind a request, and whether they may come in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from structlog.contextvars import bind_contextvars
from yarl import URL

from proxy.api.credentials import Credential, credentials
from proxy.api.forwarded import Caller, Network, caller_of, identify
from proxy.api.prefix import Way, way_of
from proxy.api.ticket import Tickets
from proxy.members import tokens
from proxy.members.directory import Access, Directory
from proxy.members.member import LOCAL
from proxy.members.sessions import name_of
from proxy.members.throttle import Throttle
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

COOKIE = "comfy_proxy_session"
SIGN_IN = "/proxy/sign-in"
SIGN_OUT = "/proxy/sign-out"

#: Where tickets let in.
TICKETED = "/view"

#: What is open to everybody: that the server lives, and the way in.
OPEN = frozenset({"/healthz", SIGN_IN, SIGN_OUT})

_REALM = 'realm="comfy-cloud-proxy"'
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Admission:
    """Who was let in, by which token (its id) and, from a browser, by which session (its name).

    Without members there is no token.
    """

    member: str
    token: str | None = None
    session: str | None = None


ADMISSION = web.RequestKey("admission", Admission)


def submitter_of(request: web.Request) -> str:
    """What tells the program behind a request from others: its token, address and `User-Agent`.

    It is kept with jobs, so it is a digest that shows none of them.
    """
    parts = (
        request[ADMISSION].token or "",
        caller_of(request).address,
        request.headers.get("User-Agent", ""),
    )
    return blake2s("\n".join(parts).encode(errors="surrogateescape"), digest_size=12).hexdigest()


class Door:
    """Lets members in. `on_wrong(address, shown)` is told of tokens that are not valid."""

    def __init__(
        self,
        members: Directory,
        *,
        base_path: str = "",
        trusted_proxies: Sequence[Network] = (),
        cors_origins: Iterable[str] = (),
        on_wrong: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.members = members
        self._on_wrong = on_wrong
        self.base_path = base_path
        self._trusted = trusted_proxies
        self._origins = frozenset(cors_origins)
        self.tickets = Tickets(time.monotonic)
        self._throttle = Throttle(time.monotonic)

    def identify(self, request: web.Request) -> Caller:
        """Where the request comes from."""
        return identify(request, self._trusted)

    def admit(self, request: web.Request) -> Admission | None:
        """Let the member behind a request in; `None` where everybody may come.

        Raises `LocalError` (400, 401, 403, 429), and `HTTPFound` to the sign-in page for browsers.
        """
        way, caller = way_of(request), caller_of(request)
        if way.crooked:
            raise LocalError(
                400,
                "crooked_path",
                "The path leads out of where it begins, by `..`, `.` or a double slash; write it "
                "straight.",
            )
        if not self.members.has_members:
            return self._welcome(request, Admission(LOCAL))
        if request.path in OPEN:
            return None
        try:
            admission, access = self._let_in(request, caller)
        except LocalError as error:
            if error.status == 401:
                error.headers["WWW-Authenticate"] = _challenge(request)
            raise
        self.members.used(access.token, caller.address)
        bind_contextvars(token_id=access.token.shown)
        return self._welcome(request, admission)

    def _let_in(self, request: web.Request, caller: Caller) -> tuple[Admission, Access]:
        found = self._known(credentials(request), caller)
        if found is None:
            return self._by_ticket(request) or self._by_session(request, caller)
        access, credential = found
        if credential.ambient:
            self.refuse_foreign(request, caller)
        return Admission(access.member.name, access.token.id), access

    def stands(self, admission: Admission) -> bool:
        """Whether who was let in may stay."""
        if admission.token is None:
            return not self.members.has_members
        sessions = self.members.sessions
        if admission.session is not None and sessions.token_of(admission.session) is None:
            return False
        return self.members.access_by_id(admission.token) is not None

    def wrong(self, token: str, caller: Caller) -> LocalError:
        """Count a wrong token; the answer to it."""
        wait = self._throttle.failed(caller.address)
        id_ = tokens.id_of(token)
        shown = f"{tokens.PREFIX}{id_}…" if id_ else "not one of ours"
        log.warning("wrong_token", address=caller.address, sent=shown, slowed_down=wait > 0)
        if not wait:
            self._on_wrong(caller.address, shown)
        if wait:
            return LocalError(
                429,
                "too_many_wrong_tokens",
                f"Too many wrong tokens came from your address; wait {wait} s, then send one that "
                "is valid.",
                headers={"Retry-After": str(wait)},
            )
        return LocalError(
            401,
            "wrong_token",
            "This token is not valid, or not any more; ask an admin of this server for another.",
        )

    def refuse_foreign(self, request: web.Request, caller: Caller) -> None:
        """Refuse what another site may have made a browser send. Raises `LocalError` (403).

        Reading is left to the browser, which shows no answer to another site's page.
        """
        headers = request.headers
        upgrade = headers.get("Upgrade", "").lower() == "websocket"
        if request.method in _SAFE and not upgrade:
            return
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        if origin in self._origins or site in ("same-origin", "none"):
            return
        if site is None and (origin is None or _is_origin_of(origin, caller.host)):
            return
        raise LocalError(
            403,
            "cross_site",
            "A page of another site may not use your sign-in here; open this server's own page, "
            "or let the program send a token itself.",
        )

    def _known(
        self, given: Sequence[Credential], caller: Caller
    ) -> tuple[Access, Credential] | None:
        """The first token that is valid; `None` where none was given."""
        found = [(self.members.access(one.token), one) for one in given]
        valid = [(access, one) for access, one in found if access is not None]
        if len({access.member.name for access, _ in valid}) > 1:
            raise LocalError(
                400,
                "tokens_of_different_members",
                "The request has tokens of different members; send one.",
            )
        if valid:
            return valid[0]
        if given:
            raise self.wrong(given[0].token, caller)
        return None

    def _by_ticket(self, request: web.Request) -> tuple[Admission, Access] | None:
        if request.path != TICKETED or request.method not in ("GET", "HEAD"):
            return None
        token_id = self.tickets.token_of(request.rel_url)
        access = self.members.access_by_id(token_id) if token_id is not None else None
        if access is None:
            return None
        return Admission(access.member.name, access.token.id), access

    def _by_session(self, request: web.Request, caller: Caller) -> tuple[Admission, Access]:
        cookie = request.cookies.get(COOKIE)
        if cookie is not None:
            name = name_of(cookie)
            token_id = self.members.sessions.token_of(name)
            access = self.members.access_by_id(token_id) if token_id is not None else None
            if access is not None:
                self.refuse_foreign(request, caller)
                return Admission(access.member.name, access.token.id, name), access
        if request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPFound(self._sign_in(request), headers={"Cache-Control": "no-store"})
        raise LocalError(
            401,
            "token_missing",
            "This server asks for a token; send it as `Authorization: Bearer`, as `X-API-Key`, "
            "or in the address as /t/TOKEN/ before the path. An admin of this server has one.",
        )

    def _sign_in(self, request: web.Request) -> URL:
        page = URL(f"{self.base_path}{SIGN_IN}")
        wanted = request.rel_url.raw_path_qs
        return page if wanted == "/" else page.with_query(next=wanted)

    def _welcome(self, request: web.Request, admission: Admission) -> Admission:
        way = way_of(request)
        if way.bare and request.method in ("GET", "HEAD"):
            raise web.HTTPPermanentRedirect(_with_slash(request, way))
        request[ADMISSION] = admission
        bind_contextvars(member=admission.member)
        return admission


DOOR = web.AppKey("door", Door)


def _challenge(request: web.Request) -> str:
    """The `WWW-Authenticate` of a 401, which never makes a browser ask for a page's password."""
    if "Origin" in request.headers or "Sec-Fetch-Mode" in request.headers:
        return f"Bearer {_REALM}"
    return f'Bearer {_REALM}, Basic {_REALM}, charset="UTF-8"'


def _with_slash(request: web.Request, way: Way) -> URL:
    prefix = way.base + (f"/t/{way.path_token}" if way.path_token is not None else "")
    query = request.rel_url.raw_query_string
    return URL.build(path=f"{prefix}/", query_string=query, encoded=True)


def _is_origin_of(origin: str, host: str) -> bool:
    """Whether a page of `origin` was served by `host`, in whose name no port is the usual one."""
    try:
        there, here = urlsplit(origin.lower()), urlsplit(f"//{host.lower()}")
        usual = _PORTS.get(there.scheme)
        return (
            bool(there.hostname)
            and there.hostname == here.hostname
            and (there.port or usual) == (here.port or usual)
        )
    except ValueError:
        return False
