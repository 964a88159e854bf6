"""Authentication: which member sends a request, by a token, a session or a ticket.

Clients put a token into the path, `Authorization`, `X-API-Key` or the query. Browsers have a
session in a cookie.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from msgspec import Struct
from yarl import URL

from proxy.api.credentials import KEY_HEADER, Credential, cookie_of, credentials_of, is_anonymous
from proxy.api.header_sign_in import identity_of
from proxy.api.keys import ACCOUNTING, CIPHER, MEMBERS, OPTIONS
from proxy.api.requests import address_of, connection_of, prefix_of, site_of
from proxy.api.tickets import TICKETED, Tickets
from proxy.edge.addressing import RequestPrefix
from proxy.edge.connections import Admission
from proxy.logging import SummedLines
from proxy.members import tokens
from proxy.members.accounting import MAX_FAILURES, MAX_SIGN_IN_STEPS, Throttle
from proxy.members.directory import Access
from proxy.members.member import LOCAL
from proxy.members.provisioning import Provisioner
from proxy.members.tokens import digest
from proxy.runtime import clock
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.api.keys import Services

log = structlog.get_logger(__name__)

SIGN_IN = "/proxy/sign-in"
SIGN_OUT = "/proxy/sign-out"

#: Says to load balancers that this process leads.
LEADER = "/leader"

#: Routes without authentication: health, and signing in and out.
OPEN = frozenset({"/healthz", LEADER, SIGN_IN, SIGN_OUT})

#: The paths of sign-in at a provider.
_PROVIDER_PATH = re.compile(r"/proxy/sign-in/[a-z0-9-]{1,32}(/callback)?", re.ASCII)

#: Tells anonymous requests no more than whether it may be sent requests.
READY = "/readyz"

#: What is answered from the process's own state.
_WITHOUT_DATABASE = frozenset({"/healthz", LEADER, READY})

#: Maximum number of cached tokens.
MAX_CACHED = 4096
#: The last use of a remembered token is recorded once in this many seconds.
USE_INTERVAL = 1.0


_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443}

#: The access of a member whom a reverse proxy has signed in.
_SIGNED_IN = web.RequestKey("signed_in_elsewhere", Access)

#: Everybody, where there are no members.
ANYONE = Admission(LOCAL)


class _KnownHeader(Struct):
    """A header that was checked before: the admission that it gave, and the digest of its token."""

    admission: Admission
    token_digest: str
    recorded: float = 0.0
    address: str = ""


class Authenticator:
    """Authenticates requests, and remembers the tokens of headers."""

    def __init__(self, services: Services) -> None:
        self._members = services[MEMBERS]
        self._base_path = services[OPTIONS].base_path
        self.tickets = Tickets(services[CIPHER])
        self._accounting = services[ACCOUNTING]
        self._origins = frozenset(services[OPTIONS].cors_origins)
        self._wrong_tokens = Throttle(MAX_FAILURES)
        self._lines = SummedLines()
        self._sign_in_steps = Throttle(MAX_SIGN_IN_STEPS)
        # By the SHA-256 of the header, so that no token stays in memory.
        self._known: dict[bytes, _KnownHeader] = {}
        self.provisioner = Provisioner(services[MEMBERS], services[ACCOUNTING].audit)
        self._header_sign_in = services[OPTIONS].header_sign_in

    async def catch_up(self, request: web.Request) -> None:
        """Read a token or session from the database if it is not known here, as one that a command
        has created, and the member whom a reverse proxy has signed in.

        Raises `LocalError` (400, 403, 503) and `StorageError`.
        """
        if request.path in _WITHOUT_DATABASE:
            return
        headers = request.headers
        sent = headers.get("Authorization") or headers.get(KEY_HEADER)
        if sent is not None and _digest(sent) in self._known:
            return
        try:
            given = [credential.token for credential in credentials_of(request)]
        except LocalError:
            return  # the refusal says it
        cookie = None if given else cookie_of(request)
        await self._members.look_for(given, None if cookie is None else digest(cookie))
        if self._header_sign_in is None or given:
            return
        peer = connection_of(request).peer
        identity = identity_of(headers, peer, self._header_sign_in)
        if identity is not None:
            request[_SIGNED_IN] = await self.provisioner.enter(
                identity, self._header_sign_in.rules, address_of(request)
            )

    def authenticate(self, request: web.Request) -> Admission | None:
        """Authenticate a request; `None` on routes that need no member.

        Raises `LocalError` (400, 401, 403, 429), and `HTTPFound` to the sign-in page for browsers.
        """
        prefix = prefix_of(request)
        if prefix.escapes:
            raise LocalError(
                "path_traversal", "The path contains `..`, `.` or a double slash; remove them."
            )
        if not self._members.has_members:
            admission = ANYONE
        elif is_open(request.path) or (request.path == READY and is_anonymous(request, prefix)):
            return None
        else:
            admission = self._remembered(request, prefix) or self._of_member(request)
        if prefix.bare and request.method in ("GET", "HEAD"):
            raise web.HTTPPermanentRedirect(_with_slash(request, self._base_path, prefix))
        return admission

    def _remembered(self, request: web.Request, prefix: RequestPrefix) -> Admission | None:
        """Return the admission of a token that was checked before, if it is alone in a header."""
        headers = request.headers
        sent = headers.getall("Authorization", ()) or headers.getall(KEY_HEADER, ())
        if len(sent) != 1 or prefix.path_token is not None or prefix.query_tokens:
            return None
        known = self._known.get(_digest(sent[0]))
        if known is None or (KEY_HEADER in headers and "Authorization" in headers):
            return None
        access = self._members.access_by_id(known.admission.token or "")
        if access is None or access.token.digest != known.token_digest:
            return None
        now, address = clock.monotonic(), address_of(request)
        if now - known.recorded > USE_INTERVAL or address != known.address:
            known.recorded, known.address = now, address
            self._members.used(access.token, address)
        return known.admission

    def _of_member(self, request: web.Request) -> Admission:
        address, given = address_of(request), credentials_of(request)
        found = self._valid(given, address)
        access = self._by_ticket(request) if found is None else found[0]
        session = None
        if access is None:
            access, session = self._by_session(request)
        token = access.token
        admission = Admission(access.member.name, token.id, session, token.shown)
        if found is not None and found[1].ambient:
            self.refuse_foreign(request)
        elif len(given) == 1:
            self._keep(request, given[0].token, _KnownHeader(admission, token.digest))
        self._members.used(token, address)
        return admission

    def _keep(self, request: web.Request, token: str, known: _KnownHeader) -> None:
        """Keep what is known of the header with a token."""
        for name in ("Authorization", KEY_HEADER):
            sent = request.headers.get(name)
            if sent is not None and sent.endswith(token):
                if len(self._known) >= MAX_CACHED:
                    self._known.clear()
                self._known[_digest(sent)] = known

    def reject(self, token: str, address: str) -> LocalError:
        """Count a wrong token of an address; the answer to it."""
        wait = self._wrong_tokens.count(address)
        id_ = tokens.id_of(token)
        shown = tokens.shown_id(id_ or "") or "not one of ours"
        more = self._lines.due(address) if wait else {}
        if more is not None:
            about = {"address": address, "sent": shown, "slowed_down": wait > 0}
            log.warning("token_rejected", **about, **more)
        if wait:
            return LocalError(
                "too_many_wrong_tokens",
                f"Your address sent too many wrong tokens; wait {wait} s, then send a valid token.",
                kind="rate_limited",
                retry_after=wait,
            )
        self._accounting.audit.record("sign_in_refused", address=address, token=shown)
        return LocalError(
            "wrong_token",
            "This token is invalid or revoked; ask an admin of this server for a new one.",
            kind="unauthenticated",
        )

    def count_sign_in(self, address: str) -> None:
        """Count a step of a sign-in at a provider, which may ask the provider something. Raises
        `LocalError` (429)."""
        wait = self._sign_in_steps.count(address)
        if wait:
            raise LocalError(
                "too_many_sign_ins",
                f"Too many sign-ins were started from your address; wait {wait} s, then try again.",
                kind="rate_limited",
                retry_after=wait,
            )

    def refuse_foreign(self, request: web.Request) -> None:
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
        if site is None and (origin is None or _is_origin_of(origin, site_of(request).host)):
            return
        raise LocalError(
            "cross_site",
            "A page of another site cannot use your session; open this server's own page, or send "
            "a token with the request.",
            kind="forbidden",
        )

    def _valid(self, given: Sequence[Credential], address: str) -> tuple[Access, Credential] | None:
        """Return the first valid token, `None` if there is none at all. Raises `LocalError`."""
        found = [(self._members.access(credential.token), credential) for credential in given]
        valid = [(access, credential) for access, credential in found if access is not None]
        if len({access.member.name for access, _ in valid}) > 1:
            raise LocalError(
                "tokens_of_different_members",
                "The request has tokens of different members; send only one.",
            )
        if valid:
            return valid[0]
        if given:
            raise self.reject(given[0].token, address)
        return None

    def _by_ticket(self, request: web.Request) -> Access | None:
        if request.path != TICKETED or request.method not in ("GET", "HEAD"):
            return None
        token_id = self.tickets.token_of(request.rel_url)
        return self._members.access_by_id(token_id) if token_id is not None else None

    def session_of(self, request: web.Request) -> tuple[Access, str] | None:
        """Return the access of a browser's session, and the session's name.

        A request with a token of its own has none: content that one member has published below
        `/t/TOKEN/` never gets the session of another, in whose browser it is.
        """
        name = digest(cookie_of(request) or "")
        token_id = self._members.sessions.token_of(name)
        access = self._members.access_by_id(token_id) if token_id is not None else None
        return None if access is None else (access, name)

    def signed_in_elsewhere(self, request: web.Request) -> Access | None:
        """Return the access of the member whom a reverse proxy has signed in."""
        return request.get(_SIGNED_IN)

    def _by_session(self, request: web.Request) -> tuple[Access, str | None]:
        access = self.signed_in_elsewhere(request)
        session = self.session_of(request) if access is None else (access, None)
        if session is not None:
            self.refuse_foreign(request)
            return session
        if request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPFound(self._sign_in(request), headers={"Cache-Control": "no-store"})
        raise LocalError(
            "token_missing",
            "This server requires a token; send it as `Authorization: Bearer`, as `X-API-Key`, or "
            "as /t/TOKEN/ before the path. Ask an admin of this server for a token.",
            kind="unauthenticated",
        )

    def _sign_in(self, request: web.Request) -> URL:
        page = URL(f"{self._base_path}{SIGN_IN}")
        wanted = request.rel_url.raw_path_qs
        return page if wanted == "/" else page.with_query(next=wanted)


def is_open(path: str) -> bool:
    """Return whether a path needs no authentication: `OPEN`, and sign-in at providers."""
    return path in OPEN or _PROVIDER_PATH.fullmatch(path) is not None


AUTHENTICATOR = web.AppKey("authenticator", Authenticator)


def authenticator_of(request: web.Request) -> Authenticator:
    """Return the authenticator of the listener."""
    return request.app[AUTHENTICATOR]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _with_slash(request: web.Request, base: str, prefix: RequestPrefix) -> URL:
    start = base if prefix.path_token is None else f"{base}/t/{prefix.path_token}"
    query = request.rel_url.raw_query_string
    return URL.build(path=f"{start}/", query_string=query, encoded=True)


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether a page of `origin` was served by `host`; without a port it has the default."""
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
