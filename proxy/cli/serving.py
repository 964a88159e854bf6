"""A process from term to term: it answers while it leads, and passes on in between."""

from __future__ import annotations

import asyncio
import gc
import webbrowser
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import structlog

from proxy.api.keys import MEMBERS, PROVIDERS, READINESS, Services
from proxy.app import lead, new_process
from proxy.app.leadership import leadership_of
from proxy.app.process import Process
from proxy.app.server import Server
from proxy.app.sign_in import sign_in_problems, template_problem
from proxy.app.standbys import Listening, Standby
from proxy.app.storage import Records
from proxy.cli.banner import Banner, here, log_problems, print_problems
from proxy.cli.common import Chosen
from proxy.cli.tables import say
from proxy.edge.context import ConnectionLimits
from proxy.edge.listener import address_of
from proxy.engine.term import Term
from proxy.metrics import Metrics
from proxy.runtime import clock
from proxy.runtime.allocator import keep_freed_memory
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop, until_set
from proxy.settings import ConfigError, Settings
from proxy.storage.database import StorageError

log = structlog.get_logger(__name__)

#: Objects that are made before those that are unreachable are looked for. Few are in circles, and a
#: look at each 700 (Python's own bound) takes a twentieth of the time of a busy server.
_YOUNG = 10_000
#: Seconds for which a process that stops passes on what still comes, and for which it waits for the
#: next leader before that: a load balancer sends requests anywhere until there is one.
_PASSING_ON, _NEXT_LEADER = 1.5, 3.0
#: Seconds before a process that could not lead stands for it again.
_AGAIN = 1.0
#: Seconds after which the idle connections of a term that is over are closed.
_UNUSED = 75.0


@dataclass(kw_only=True, eq=False, repr=False)
class Serving:
    """Leads whenever it is elected; without a `standby` no other process can."""

    process: Process
    records: Records
    listening: Listening
    limits: ConnectionLimits
    chosen: Chosen
    reread_keys: asyncio.Event
    banner: Banner | None
    standby: Standby | None
    stop_timeout: float
    #: Those of terms that are over, on whose connections requests may still come.
    _retired: list[Server] = field(init=False, default_factory=list)

    @property
    def settings(self) -> Settings:
        """The settings of the process."""
        return self.process.settings

    async def run(self, *ends: asyncio.Task[bool]) -> None:
        """Lead and stand by in turn, until one of `ends`. Raises `ConfigError` and
        `StorageError`."""
        standby, spent, epoch = self.standby, 0.0, 0
        leadership = leadership_of(self.records) if standby is None else standby.leadership
        if standby is not None:
            await standby.begin()
            self._say_ready()
        try:
            while True:
                elected = asyncio.ensure_future(leadership.elected())
                try:
                    await asyncio.wait([elected, *ends], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not elected.done():
                        await stop(elected)
                if elected.cancelled():
                    break
                term = elected.result()
                epoch = term.lease.epoch
                async with leadership.leading(term):
                    await self._lead(term, ends)
                if standby is None or any(end.done() for end in ends):
                    break
        finally:
            if standby is not None:
                began = clock.monotonic()
                standby.among.stops = True
                await standby.leadership.known(_NEXT_LEADER, after=epoch)
                await asyncio.sleep(_PASSING_ON)
                await self._stop_retired(clock.monotonic() - began)
                spent = clock.monotonic() - began
                self.listening.close()
                await standby.stop(spent=spent)

    async def _lead(self, term: Term, ends: Sequence[asyncio.Task[bool]]) -> None:
        """Answer until the term is over, or one of `ends`."""
        process = self.process
        self.records.supervisor.spawn(self._leave_retired(), "close connections of a term")
        if self.standby is not None:  # what is counted for members and accounts is of the term
            process = new_process(
                self.settings,
                process.failed,
                process.timeouts,
                process.policy,
                Metrics(process.metrics),
            )
        try:
            await self._answer(process, term, ends)
        except ConfigError as error:
            if self.standby is None or not isinstance(error.__cause__, StorageError):
                raise
            log.warning("term_abandoned", reason=str(error))
            await asyncio.sleep(_AGAIN)
        finally:
            if self.standby is not None:
                await self.standby.begin()

    async def _leave_retired(self) -> None:
        """Close the connections of terms that are over once they are not used any more: a client
        may be sending a request on one."""
        for server in list(self._retired):
            await until_set(server.is_unused, _UNUSED)
            if server in self._retired:
                self._retired.remove(server)
                await server.stop()

    async def _stop_retired(self, spent: float = 0.0) -> None:
        """Close the connections of terms that are over."""
        retired, self._retired = self._retired, []
        await asyncio.gather(*(server.stop(spent=spent) for server in retired))

    async def _answer(
        self, process: Process, term: Term, ends: Sequence[asyncio.Task[bool]]
    ) -> None:
        standby, listening, spent = self.standby, self.listening, 0.0
        async with (
            lead(
                process,
                self.records,
                term,
                accounts=self.chosen.accounts,
                reread_keys=self.reread_keys,
                handover=None if standby is None else standby.leadership.handover,
            ) as services,
            AsyncExitStack() as stack,
        ):
            background = Supervisor(process.failed)
            stack.push_async_callback(background.close)
            servers = self._servers(services)
            if standby is not None:
                standby.pause()
            try:
                await servers[0].start(listening.sockets, listening.certificate)
                for admin in servers[1:]:
                    await admin.start(listening.admin_sockets)
                self._begin(services, background)
                over = background.spawn(term.over.wait(), "wait for the end of the term")
                await asyncio.wait([over, *ends], return_when=asyncio.FIRST_COMPLETED)
                if any(end.done() for end in ends):
                    log.info("shutdown_started")
                if standby is None and not process.failed.is_set():
                    began = clock.monotonic()
                    await services[READINESS].leave()
                    spent = clock.monotonic() - began
            finally:
                if standby is None:
                    listening.close()
                    await asyncio.gather(*(server.stop(spent=spent) for server in servers))
                else:
                    self._retired += servers
                    await asyncio.gather(*(server.retire() for server in servers))

    def _servers(self, services: Services) -> list[Server]:
        """Return the server of clients, and that of admins if they have a listener."""
        standby = self.standby
        amongs = (None, None) if standby is None else (standby.among, standby.among_admins)
        servers = [Server(services, self.limits, stop_timeout=self.stop_timeout, among=amongs[0])]
        if self.listening.admin_sockets:
            servers.append(
                Server(
                    services,
                    self.limits,
                    stop_timeout=self.stop_timeout,
                    admin=True,
                    among=amongs[1],
                )
            )
        return servers

    def _begin(self, services: Services, background: Supervisor) -> None:
        """Say that this process answers, and look for what keeps it from taking jobs."""
        if self.standby is None:
            self._say_ready()
        gc.freeze()  # what is there now stays: no collection has to look at it again
        gc.set_threshold(_YOUNG)
        keep_freed_memory()
        tell = log_problems if self.banner is None else self.banner.tell
        background.spawn(print_problems(services, tell), "tell problems")
        background.spawn(_check_sign_in(self.settings, services), "check the sign-in")
        if self.settings.open:
            background.spawn(self._open_browser(), "open the browser")

    def _say_ready(self) -> None:
        url = self._url()
        if self.banner is not None:
            self.banner.ready(url, self.chosen)
        else:
            say(f"listening on {url} ({self.chosen})")
        if self.listening.admin_sockets and self.settings.admin_listen is not None:
            host = self.settings.admin_listen[0]
            address = address_of(self.listening.admin_sockets, host, tls=False)
            log.info("admin_listener_started", address=address)

    def _url(self) -> str:
        tls = self.listening.certificate is not None
        return address_of(self.listening.sockets, self.settings.hosts[0], tls=tls)

    async def _open_browser(self) -> None:
        """Open the page in the browser of the user (or of the variable BROWSER)."""
        page = f"{here(self._url())}{self.settings.base_path}/"
        if not await asyncio.to_thread(webbrowser.open, page):
            log.warning("browser_not_opened", url=page, remedy="open it yourself")


async def _check_sign_in(settings: Settings, services: Services) -> None:
    """Log why people cannot sign in at the providers of the settings."""
    for provider, problem in await sign_in_problems(services[PROVIDERS].values()):
        if problem is not None:
            log.warning("provider_rejected", provider=provider, reason=problem)
    problem = template_problem(settings, services[MEMBERS])
    if problem is not None:
        log.warning("template_not_found", reason=problem)
