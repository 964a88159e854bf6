"""The services that handlers take, each by its own key of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiohttp import web

from proxy.files.uploads import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.api import ApiOptions
    from proxy.api.journal import Journal
    from proxy.api.readiness import Readiness
    from proxy.api.spool import Spool
    from proxy.api.web_interface import WebInterface
    from proxy.catalog.service import Catalog
    from proxy.cloud.observations import Observations
    from proxy.costs.balances import Balances
    from proxy.files.assets import Assets
    from proxy.files.service import Files
    from proxy.jobs.service import JobService
    from proxy.members.accounting import Accounting
    from proxy.members.directory import Directory
    from proxy.packs.pack import PackServices
    from proxy.runtime.supervisor import Supervisor
    from proxy.sharing.budget import MemoryBudget
    from proxy.sharing.loop_turns import LoopTurns
    from proxy.sharing.pool import Pool
    from proxy.sharing.turns import Turns
    from proxy.sign_in.provider import SignInProvider
    from proxy.storage.encryption import Cipher
    from proxy.storage.history import HistoryRepository
    from proxy.userdata.stored import StoredUserData
    from proxy.webhooks.endpoints import Webhooks

T = TypeVar("T")

JOBS: web.AppKey[JobService] = web.AppKey("jobs")
FILES: web.AppKey[Files] = web.AppKey("files")
CATALOG: web.AppKey[Catalog] = web.AppKey("catalog")
USERDATA: web.AppKey[StoredUserData] = web.AppKey("userdata")
MEMBERS: web.AppKey[Directory] = web.AppKey("members")
WEBHOOKS: web.AppKey[Webhooks] = web.AppKey("webhooks")
BALANCES: web.AppKey[Balances] = web.AppKey("balances")
ACCOUNTING: web.AppKey[Accounting] = web.AppKey("accounting")
HISTORY: web.AppKey[HistoryRepository] = web.AppKey("history")
OBSERVATIONS: web.AppKey[Observations] = web.AppKey("observations")
#: Reports whether jobs are accepted.
READINESS: web.AppKey[Readiness] = web.AppKey("readiness")
JOURNAL: web.AppKey[Journal] = web.AppKey("journal")
#: What is served at `/`.
INTERFACE: web.AppKey[WebInterface] = web.AppKey("interface")
#: Signs what this process, the next leader and standbys must trust.
CIPHER: web.AppKey[Cipher] = web.AppKey("cipher")
#: Memory for clients.
BUDGET: web.AppKey[MemoryBudget] = web.AppKey("budget")
LOOP_TURNS: web.AppKey[LoopTurns] = web.AppKey("loop_turns")
#: Long work in threads.
TURNS: web.AppKey[Turns] = web.AppKey("turns")
#: Disk space for requests of clients.
SPOOL: web.AppKey[Spool] = web.AppKey("spool")
#: Websockets and streams of events.
STREAMS: web.AppKey[Pool] = web.AppKey("streams")
#: The pools that metrics show, by name.
POOLS: web.AppKey[dict[str, Pool]] = web.AppKey("pools")
SUPERVISOR: web.AppKey[Supervisor] = web.AppKey("supervisor")
#: Without them the routes of assets are turned off.
ASSETS: web.AppKey[Assets] = web.AppKey("assets")
#: Without them there are no routes of node packs.
PACKS: web.AppKey[PackServices] = web.AppKey("packs")
#: Where members sign in, by name.
PROVIDERS: web.AppKey[Mapping[str, SignInProvider]] = web.AppKey("providers")
OPTIONS: web.AppKey[ApiOptions] = web.AppKey("options")


class Services:
    """The services of all listeners, each by its key. `proxy/app/` fills them."""

    def __init__(self) -> None:
        self._by_key: dict[web.AppKey[Any], Any] = {}

    def __setitem__(self, key: web.AppKey[T], service: T) -> None:
        self._by_key[key] = service

    def __getitem__(self, key: web.AppKey[T]) -> T:
        return cast(T, self._by_key[key])

    def provide(self, app: web.Application) -> None:
        """Put the services into the application of a listener."""
        for key, service in self._by_key.items():
            app[key] = service


def features(app: web.Application) -> dict[str, Any]:
    """Return the feature flags that `GET /features` and the websocket announce.

    They are ours and never the cloud's: a flag of the cloud can change how a local client reads
    what we send. `docs/web-interface.md` has all that the web interface reads.
    """
    return {
        "supports_preview_metadata": True,
        "supports_model_type_tags": True,
        "max_upload_size": min(app[OPTIONS].max_upload_bytes, MAX_BYTES),
        "extension": {"manager": {"supports_v4": True}},
        "node_replacements": True,
        "assets": True,
        "partner_run_gate_enabled": not app[OPTIONS].pays_partner_nodes,
    }
