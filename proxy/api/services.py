"""What the handlers stand on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, web

from proxy.api.addressing import Network
from proxy.api.connections import caller_of, connection_of, of
from proxy.api.web_interface import WebInterface
from proxy.helpers.clients import KritaCheck
from proxy.members.accounting import Accounting
from proxy.members.audit import Value
from proxy.members.directory import Directory
from proxy.storage.encryption import Cipher
from proxy.supervisor import Supervisor

if TYPE_CHECKING:
    from proxy.api.admin.dashboard import Dashboard
    from proxy.api.system import Journal
    from proxy.catalog.service import Catalog
    from proxy.files.assets import Assets
    from proxy.files.service import Files
    from proxy.helpers.clients import Exchange
    from proxy.helpers.service import Helpers
    from proxy.jobs.service import JobService
    from proxy.observations import Observations
    from proxy.readiness import Readiness
    from proxy.userdata.base import UserData

#: ComfyUI's own limit of a request body (`--max-upload-size 100`), in bytes.
MAX_UPLOAD_BYTES = 100 * 1024 * 1024
#: The default limit of a body of JSON, in bytes.
MAX_JSON_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Services:
    """The rooms below, and plain values of the settings.

    `max_upload_bytes` bounds every request body and is announced to clients, `max_json_bytes` those
    that are JSON. Pages of
    `cors_origins` may speak to us from a browser (`*`: all pages), others pass the origin check.
    With `compress` JSON and text are packed for clients that can unpack them.
    `readiness` tells whether jobs can be taken; without it they always can.
    Websockets are closed with the `close_code` at the end.
    A websocket to which nothing was sent for `ping_interval` seconds gets a ping (0: never).
    `pays_partner_nodes` says that jobs are lent the account's key for them.
    `base_path` (`""` or like `/comfy`) stands before links and redirects; `trusted_proxies` are
    believed when they say who a client is.
    `interface` is what is served at `/`. `supervisor` keeps background work up.
    With `admin_apart` what is for admins is served elsewhere. Without `helpers` and `exchange`
    there are no routes of node packs, and without `assets` those of assets are turned off.
    `cipher` signs what another replica is to believe.
    """

    jobs: JobService
    files: Files
    catalog: Catalog
    userdata: UserData
    journal: Journal
    members: Directory = field(default_factory=Directory)
    base_path: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    max_json_bytes: int = MAX_JSON_BYTES
    cors_origins: tuple[str, ...] = ()
    compress: bool = False
    readiness: Readiness | None = None
    close_code: int = WSCloseCode.GOING_AWAY
    ping_interval: float = 30.0
    pays_partner_nodes: bool = True
    interface: WebInterface = field(default_factory=WebInterface)
    accounting: Accounting = field(default_factory=Accounting)
    metrics_shown: bool = False
    admin_apart: bool = False
    dashboard: Dashboard | None = None
    observations: Observations | None = None
    assets: Assets | None = None
    helpers: Helpers | None = None
    exchange: Exchange | None = None
    krita: KritaCheck = field(default_factory=KritaCheck)
    cipher: Cipher = field(default_factory=Cipher)
    supervisor: Supervisor = field(default_factory=Supervisor)

    @property
    def most_upload_bytes(self) -> int:
        """Bytes of a file that clients are told they may send: the lower of the cloud's limit and
        of that of a request body."""
        return min(self.max_upload_bytes, self.files.max_upload_bytes)


SERVICES = web.AppKey("services", Services)
#: Whether an application serves what is for admins, and nothing else.
ADMIN_LISTENER = web.AppKey("admin_listener", bool)


def note(request: web.Request, action: str, **about: Value) -> None:
    """Record an action of the request's member."""
    admission, address = connection_of(request).admission, caller_of(request).address
    member = admission.member if admission is not None else ""
    of(request).accounting.audit.note(action, member=member, address=address, **about)
