"""The local ComfyUI API: aiohttp handlers, one module for each resource, and a table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import WSCloseCode
from msgspec import Struct, field

from proxy.api.spool import Spool
from proxy.budget import MemoryBudget
from proxy.pool import Pool
from proxy.turns import Turns, thread_turns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.api.header_sign_in import HeaderSignIn
    from proxy.api.web_interface import Journal, WebInterface
    from proxy.bus import EventBus
    from proxy.catalog.service import Catalog
    from proxy.costs.billing import Billing
    from proxy.edge.addressing import Network
    from proxy.files.assets import Assets
    from proxy.files.service import Files
    from proxy.jobs.service import JobService
    from proxy.members.accounting import Accounting
    from proxy.members.directory import Directory
    from proxy.members.invitations import Invitations
    from proxy.observations import Observations
    from proxy.packs.pack import PackServices
    from proxy.readiness import Readiness
    from proxy.sign_in.provider import SignInProvider
    from proxy.storage.encryption import Cipher
    from proxy.storage.history import HistoryRepository
    from proxy.storage.usage import ActivityRepository
    from proxy.supervisor import Supervisor
    from proxy.userdata.on_cloud import UserData
    from proxy.webhooks.endpoints import Webhooks


class ApiOptions(Struct, frozen=True, kw_only=True):
    """The settings of the API.

    `max_upload_bytes` limits every request body and is reported to clients, `max_json_bytes` limits
    JSON; the first is ComfyUI's own limit (`--max-upload-size 100`). Pages of `cors_origins` may
    use the API (`*`: all pages); others pass the origin check. With `compress` JSON and text are
    compressed for clients that accept it. Websockets are closed with `close_code` when the server
    stops, and get a ping `ping_interval` seconds after the last message (0: never). With
    `pays_partner_nodes` jobs get the account's key for partner nodes. `base_path` (`""` or like
    `/comfy`) is a prefix of links and redirects; the headers of `trusted_proxies` name the client,
    and with `header_sign_in` its person. `allowed_hosts` are allowed in `Host` on loopback. With
    `admin_apart` another listener serves the routes of admins. `simulated` is whether the cloud is
    simulated.
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
    """The services that handlers use, and the `options` of the API.

    `readiness` reports whether jobs are accepted. `interface` is served at `/`. `cipher` signs what
    other replicas must trust. `budget` counts memory for clients, `spool` disk space for their
    requests, `streams` websockets and streams of events; `pools` are those that metrics show.
    `turns` runs long work in threads. `supervisor` runs background tasks. Members sign in
    at the `providers`, by name. Without `packs` there are no routes of node packs, without `assets`
    those of assets are turned off.
    """

    jobs: JobService
    files: Files
    catalog: Catalog
    userdata: UserData
    members: Directory
    invitations: Invitations
    webhooks: Webhooks
    accounting: Accounting
    billing: Billing
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
    spool: Spool
    streams: Pool
    pools: dict[str, Pool] = field(default_factory=dict)
    turns: Turns = field(default_factory=thread_turns)
    assets: Assets | None = None
    packs: PackServices | None = None
    providers: Mapping[str, SignInProvider] = field(default_factory=dict)
    options: ApiOptions = ApiOptions()
