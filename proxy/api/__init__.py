"""The local ComfyUI API: aiohttp handlers, one module a resource, one table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import WSCloseCode
from msgspec import Struct, field

from proxy.api.spool import Spool
from proxy.budget import MemoryBudget
from proxy.threads import ThreadTurns

if TYPE_CHECKING:
    from proxy.api.addressing import Network
    from proxy.api.header_sign_in import HeaderSignIn
    from proxy.api.web_interface import Journal, WebInterface
    from proxy.bus import EventBus
    from proxy.catalog.service import Catalog
    from proxy.files.assets import Assets
    from proxy.files.service import Files
    from proxy.jobs.service import JobService
    from proxy.members.accounting import Accounting
    from proxy.members.directory import Directory
    from proxy.observations import Observations
    from proxy.packs.pack import PackServices
    from proxy.readiness import Readiness
    from proxy.storage.encryption import Cipher
    from proxy.storage.history import HistoryRepository
    from proxy.storage.usage import ActivityRepository
    from proxy.supervisor import Supervisor
    from proxy.userdata.on_cloud import UserData


class ApiOptions(Struct, frozen=True, kw_only=True):
    """The settings of the api.

    `max_upload_bytes` bounds every request body and is announced to clients, `max_json_bytes` those
    that are JSON; the first is ComfyUI's own limit (`--max-upload-size 100`). Pages of
    `cors_origins` may speak to us from a browser (`*`: all pages), others pass the origin check.
    With `compress` JSON and text are compressed for clients that accept it.
    Websockets are closed with the `close_code` at the end. One to which nothing was sent for
    `ping_interval` seconds gets a ping (0: never).
    `pays_partner_nodes` says that jobs are lent the account's key for them.
    `base_path` (`""` or like `/comfy`) stands before links and redirects; `trusted_proxies` are
    believed when they say who a client is, and with `header_sign_in` who its person is.
    `allowed_hosts` may be in `Host` on loopback.
    With `admin_apart` what is for admins is served elsewhere. `simulated` says that the cloud is.
    """

    base_path: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    header_sign_in: HeaderSignIn | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_upload_bytes: int = 100 * 1024 * 1024
    max_json_bytes: int = 32 * 1024 * 1024
    cors_origins: tuple[str, ...] = ()
    compress: bool = False
    close_code: int = WSCloseCode.GOING_AWAY
    ping_interval: float = 30.0
    pays_partner_nodes: bool = True
    metrics_shown: bool = False
    admin_apart: bool = False
    simulated: bool = False


class Services(Struct, frozen=True, kw_only=True):
    """What the handlers stand on: the rooms below, and the `options` of the api.

    `readiness` tells whether jobs can be taken. `interface` is what is served at `/`. `cipher`
    signs what another replica is to believe. `budget` counts the memory that is held for clients,
    `spool` that on disk for their requests, and in `turns` runs what would keep others waiting.
    `supervisor` keeps background work up. Without `packs` there are no
    routes of node packs, and without `assets` those of assets are turned off.
    """

    jobs: JobService
    files: Files
    catalog: Catalog
    userdata: UserData
    members: Directory
    accounting: Accounting
    history: HistoryRepository
    activity: ActivityRepository
    observations: Observations
    readiness: Readiness
    journal: Journal
    interface: WebInterface
    bus: EventBus
    cipher: Cipher
    supervisor: Supervisor
    budget: MemoryBudget
    turns: ThreadTurns = field(default_factory=ThreadTurns)
    spool: Spool = field(default_factory=Spool)
    assets: Assets | None = None
    packs: PackServices | None = None
    options: ApiOptions = ApiOptions()
