"""A process: the real services, composed by `proxy.app`, that can be disturbed.

It leads while it has the lease. What reaches it otherwise is passed on by the rules of the product
(`to_leader`), over a network without sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import WSCloseCode
from msgspec.structs import replace
from simulation.deployment import DEPLOYMENT_HOST
from simulation.loop import PROCESS, Process
from simulation.network import ACCOUNTS, CLOUD_HOSTS
from simulation.passing import Answer, GoneError, Request, among, refused
from yarl import URL

from proxy.app.accounts import open_accounts
from proxy.app.jobs import open_jobs, run_engine, service_of
from proxy.app.leadership import leadership_of
from proxy.app.process import Process as Given
from proxy.app.process import policy_of
from proxy.app.resources import open_resources
from proxy.app.storage import Records, open_records, open_storage
from proxy.app.webhooks import open_webhooks
from proxy.cloud.event_socket import Timeouts
from proxy.engine.engine import Engine
from proxy.engine.term import Term
from proxy.files.service import Files
from proxy.jobs.service import JobService
from proxy.leader.handover import Handover
from proxy.leader.leadership import Leadership
from proxy.leader.standby import AmongStandbys
from proxy.members.directory import Directory
from proxy.metrics import Metrics
from proxy.runtime.backoff import Backoff
from proxy.runtime.waits import stop
from proxy.settings import AccountAccess, ConfigError, Settings
from proxy.sharing.budget import MemoryBudget
from proxy.storage.database import StorageError
from proxy.storage.leases import Lease
from proxy.translate.errors import LocalError
from proxy.webhooks.delivery import RetrySchedule
from proxy.webhooks.endpoints import Webhooks

if TYPE_CHECKING:
    from simulation.plan import Plan
    from simulation.world import World

T = TypeVar("T")

#: Webhooks are attempted again within seconds: else a short run would last for hours.
_QUICK = RetrySchedule(timeout=3.0, backoff=Backoff(0.2, 2.0))

#: Seconds between two looks at the key.
_KEY_INTERVAL = 2.0

#: Seconds that answers under way have when a leader stops.
_STOP_TIMEOUT = 8.0


class Parts:
    """The services of a leader, as properties look at them."""

    def __init__(
        self,
        replica: Replica,
        given: Given,
        term: Term,
        members: Directory,
        files: Files,
        jobs: JobService,
        engine: Engine,
        webhooks: Webhooks,
    ) -> None:
        self.replica = replica
        self.given = given
        self.term = term
        self.members = members
        self.webhooks = webhooks
        self.files = files
        self.jobs = jobs
        self.engine = engine
        #: The ends of websockets that are open here.
        self.sockets: set[Any] = set()


#: What a handler does with the services of a leader, and a function that sends the answer before
#: the handler ends; of its request it sees whether that was sent to another leader before.
Work = Callable[[Parts, Callable[[Any], None], Request], Coroutine[Any, Any, Any]]


class Replica:
    """One replica by its name. `parts` are there while it leads, `leadership` while it serves."""

    def __init__(self, world: World, name: str, plan: Plan) -> None:
        self.world = world
        self.loop = world.loop
        self._plan = plan
        self.name = name
        #: Whether the next process is of the next release.
        self.is_newer = False
        self._lacks_account = False
        self.process = Process(name)
        self.parts: Parts | None = None
        self.leadership: Leadership | None = None
        self._among: AmongStandbys | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        #: How many clients wait for an answer.
        self._asks = 0
        self._handlers: list[asyncio.Task[None]] = []
        self.starts = 0
        self.on_serving: Callable[[], None] = lambda: None
        #: All processes that it had.
        self.processes: list[Process] = []

    @property
    def serves(self) -> bool:
        """Whether a client can connect."""
        return self.leadership is not None and self.process.alive

    @property
    def is_outdated(self) -> bool:
        """Whether it lacks an account that the settings have again."""
        return self._lacks_account and not self.world.lacks_account

    @property
    def leads(self) -> bool:
        """Whether it would act and answer by itself now."""
        return self.parts is not None and self.parts.term.lasts

    def leads_in(self, lease: Lease) -> bool:
        """Return whether it has the term of a lease, and may answer in it."""
        return self.leads and self.parts is not None and self.parts.term.lease.epoch == lease.epoch

    def own_leadership(self) -> Leadership:
        """Return what the process knows of the leader. Raises `GoneError`."""
        if self.leadership is None:
            raise GoneError(self.name)
        return self.leadership

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a new process with an empty memory."""
        self.process = Process(self.name, self.is_newer)
        self._lacks_account = self.world.lacks_account
        self.processes.append(self.process)
        self.parts, self.leadership, self._stop = None, None, asyncio.Event()
        self._handlers = []
        self.starts += 1
        self.world.note(self.name, "", "starts")
        self._task = self._spawn(self._run())

    def kill(self) -> None:
        """Kill the process: nothing of it runs any more."""
        if not self.process.alive:
            return
        self.world.note(self.name, "", "is killed")
        self.process.alive = False
        self._gone()

    async def stop(self) -> None:
        """Ask the process to end, and wait until it has."""
        self.world.note(self.name, "", "is asked to stop")
        process = self.process
        self._stop.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=60.0)
        if process.alive:  # else it was killed meanwhile, and another one may be there
            process.alive = False
            self._gone()

    def freeze(self) -> None:
        """Let the process stand still."""
        self.world.note(self.name, "", "freezes")
        self.process.frozen = True

    def thaw(self) -> None:
        """Let the process go on."""
        if self.process.frozen:
            self.world.note(self.name, "", "thaws")
            self.loop.thaw(self.process)

    def _gone(self) -> None:
        self._end_sockets(None)
        self.parts = self.leadership = self._among = None
        for cloud in self.world.clouds.values():
            for socket in list(cloud.sockets):
                if socket.process is self.process:
                    socket.lose()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(GoneError(self.name))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work in the process."""
        token = PROCESS.set(self.process)
        try:
            return self.loop.create_task(work)
        finally:
            PROCESS.reset(token)

    async def _run(self) -> None:
        process = self.process
        settings, given = self._given()
        try:
            async with open_records(settings, given.failed) as records:
                leadership = self._standing(settings, records, given)
                if process.alive:
                    self.leadership = leadership
                    self._among = among(self, leadership, records)
                    self.world.note(self.name, "", "serves")
                    self.on_serving()
                while not self._stop.is_set():
                    await self._stand(records, leadership)
                self.leadership = None
            if process.sessions:
                about = f"{self.name} has ended with {process.sessions} open sessions"
                self.world.problems.append(("left_behind", about))
        except Exception as error:  # noqa: BLE001 (as a process that ends with an error)
            self.world.note(self.name, "", f"could not start: {error!r}")
            self.loop.in_world(5.0, self._start_again, process)

    def _standing(self, settings: Settings, records: Records, given: Given) -> Leadership:
        """Stand for the lease, in which the name of the replica is its address."""
        if settings.database is None:
            return leadership_of(records, None, lambda: self.name)
        clouds = [URL(f"https://{host}") for host in self._hosts()]
        leadership = leadership_of(
            records,
            lambda leases, holder: Handover(leases, clouds, holder, given.metrics),
            lambda: self.name,
        )
        records.supervisor.keep(leadership.follow, "follow the leader")
        return leadership

    async def _stand(self, records: Records, leadership: Leadership) -> None:
        """Lead once, as `proxy.cli.serving` does, unless the process is to end before."""
        elected = asyncio.ensure_future(leadership.elected())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({elected, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not elected.done():
                return
            term = elected.result()
        finally:
            await stop(elected, stopping)
        _, given = self._given()
        async with leadership.leading(term):
            try:
                async with self._led(given, records, term, leadership) as parts:
                    self.parts = parts
                    await _first(term.over, self._stop)
                    self._end_sockets(WSCloseCode.SERVICE_RESTART)
                    await self._drain()
            except ConfigError as error:
                if not isinstance(error.__cause__, StorageError):
                    raise
                self.world.note(self.name, "", f"gives a term up: {error}")
                await asyncio.sleep(1.0)
            finally:
                self._end_sockets(WSCloseCode.SERVICE_RESTART)
                self.parts = None

    def _end_sockets(self, code: int | None) -> None:
        """Close the websockets of the term, or let them be gone."""
        for socket in () if self.parts is None else sorted(self.parts.sockets, key=_number_of):
            socket.lose(code)

    async def _drain(self) -> None:
        """Finish the answers under way, as the server does when it stops."""
        handlers = [task for task in self._handlers if not task.done()]
        if handlers:
            _, late = await asyncio.wait(handlers, timeout=_STOP_TIMEOUT)
            await stop(*late)

    def _start_again(self, process: Process) -> None:
        if process is self.process and process.alive and not self._stop.is_set():
            process.alive = False
            self._gone()
            self.start()

    def _hosts(self) -> list[str]:
        return list(self.world.clouds)

    async def _follow_key(self, engine: Engine) -> None:
        """Take another key of the accounts, as `AccountKeys` does with a file."""
        used = self.world.settings_key
        while True:
            await asyncio.sleep(_KEY_INTERVAL)
            if used != self.world.settings_key:
                used = self.world.settings_key
                for name in ACCOUNTS[: self._plan.accounts - self._lacks_account]:
                    await engine.use_key(name, used)

    def _given(self) -> tuple[Settings, Given]:
        """What every part of the process is given."""
        server = {"database": "postgresql://u:p@database/p"}
        settings = Settings(
            data_dir=self.world.folder / self.name,
            credits_per_second=self._plan.credits_per_second,
            **({} if self._plan.alone else server),
        )
        policy = policy_of(settings)
        if not self._plan.is_long:
            policy = replace(policy, webhooks=_QUICK)
        if self._plan.reads_often:
            policy = replace(policy, connected_wait=3.0, lost_wait=1.0)
        return settings, Given(
            settings,
            Timeouts(),
            policy,
            asyncio.Event(),
            Metrics(),
            MemoryBudget(settings.memory_bytes),
        )

    def _access(self) -> list[AccountAccess]:
        slots = self._plan.slots if self._plan.fixed_slots else 0
        key, count = self.world.settings_key, self._plan.accounts - self._lacks_account
        access = [
            AccountAccess(name, URL(f"https://{host}"), key, slots)
            for name, host in zip(ACCOUNTS[:count], CLOUD_HOSTS[:count], strict=True)
        ]
        if (deployment := self._plan.deployment) is not None:
            members, nodes = deployment.members, self.world.nodes
            url = URL(f"https://{DEPLOYMENT_HOST}")
            access.append(AccountAccess("studio", url, key, slots, members=members, nodes=nodes))
        return access

    @asynccontextmanager
    async def _led(
        self, given: Given, records: Records, term: Term, leadership: Leadership
    ) -> AsyncIterator[Parts]:
        """Open what `proxy.app.lead` opens, without the HTTP server."""
        async with (
            open_storage(given, records) as storage,
            open_accounts(given, storage, self._access()) as cloud,
            open_resources(given, storage, cloud) as resources,
            open_webhooks(given, storage) as webhooks,
            AsyncExitStack() as stack,
        ):
            resources.files.library.prefetch = "off"
            jobs = open_jobs(given, storage, resources, webhooks.runner.outbox)
            engine = await stack.enter_async_context(
                run_engine(given, storage, cloud, resources, jobs, webhooks.runner, term)
            )
            if leadership.handover is not None:
                contacts = [account.cloud.contact for account in cloud.accounts.values()]
                looking = leadership.handover.look(term, contacts)
                storage.supervisor.spawn(looking, "find a successor")
            storage.supervisor.keep(lambda: self._follow_key(engine), "follow the keys")
            service = service_of(given, storage, resources, jobs, engine, term)
            yield Parts(
                self,
                given,
                term,
                storage.members,
                resources.files,
                service,
                engine,
                webhooks.endpoints,
            )

    # --- requests --------------------------------------------------------------------------

    @property
    def is_asked(self) -> bool:
        """Whether a client waits for an answer."""
        return self._asks > 0

    async def ask(self, request: Request, timeout: float) -> Any:
        """Let the replica answer a request, or the leader to which it passes it on, and return the
        answer. Raises what the handler raises, `GoneError`, and `TimeoutError`."""
        await asyncio.sleep(self.world.weather.draw(0.0005, 0.01))
        if self.leadership is None or not self.process.alive:
            raise GoneError(self.name)
        self._asks += 1
        try:
            answer = await self._answered(self._answer(request), timeout)
        finally:
            self._asks -= 1
        if answer.error is not None:
            raise answer.error
        return answer.value

    async def connect(self, request: Request) -> None:
        """Open a websocket, until it closes if it is passed on. Raises `GoneError` and
        `LocalError`."""
        await asyncio.sleep(self.world.weather.draw(0.0005, 0.01))
        if self.leadership is None or not self.process.alive:
            raise GoneError(self.name)
        answer = await self._answered(self._answer(request), None)
        if isinstance(answer.error, LocalError):
            raise answer.error

    async def _answer(self, request: Request) -> Answer:
        """Answer a request in this process, or pass it on."""
        parts, among = self.parts, self._among
        if among is None:
            raise GoneError(self.name)

        async def gate(_: Any) -> Any:
            assert parts is not None
            return await self._handled(parts, request)

        asked: Any = request
        handle = among.handle if parts is None else among.of_leader(gate)
        answer: Any = await handle(asked)
        if not isinstance(answer, Answer):
            answer = refused(answer.status)
        is_own = parts is not None and answer.epoch == parts.term.lease.epoch
        if is_own and request.method == "GET" and not request.protocol.is_cut:
            self._check_newest(answer)
        return answer

    def _check_newest(self, answer: Answer) -> None:
        """Note a problem if a leader answers after the next one has."""
        if answer.epoch < self.world.newest_answer:
            about = f"{self.name} in epoch {answer.epoch}, after {self.world.newest_answer}"
            self.world.problems.append(("older_answer", about))
        self.world.newest_answer = max(self.world.newest_answer, answer.epoch)

    async def _handled(self, parts: Parts, request: Request) -> Answer:
        """Handle a request as the leader."""
        found = Answer(parts.term.lease.epoch)
        ready: asyncio.Future[None] = self.loop.create_future()

        def send(value: Any) -> None:
            found.value, found.prepared = value, True
            if not ready.done():
                ready.set_result(None)

        async def handle() -> None:
            try:
                value = await request.work(parts, send, request)
                if not found.prepared:
                    found.value = value
            except Exception as error:  # noqa: BLE001 (it is the answer)
                if not found.prepared:
                    found.error = error
            if not ready.done():
                ready.set_result(None)

        task = self._spawn(handle())
        self._handlers = [each for each in self._handlers if not each.done()]
        self._handlers.append(task)
        await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            raise GoneError(self.name)  # it was cancelled: the term is over
        return found

    async def answer_of(self, request: Request) -> Answer:
        """Answer a request that a standby has passed on. Raises `GoneError`."""
        answer: Answer = await self._answered(self._answer(request), None)
        return answer

    async def in_process(self, work: Callable[[], None]) -> None:
        """Run work in the process, and wait until that is done. Raises `GoneError`."""

        async def run() -> None:
            work()

        await self._answered(run(), None)

    def run_in_process(self, work: Callable[[], None]) -> None:
        """Run work in the process, if it lives so long."""

        async def run() -> None:
            work()

        if self.process.alive:
            self._spawn(run())

    async def _answered(self, work: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        """Return what comes of work in this process, if it lives so long."""
        weather = self.world.weather
        self._number += 1
        number, answer = self._number, self.loop.create_future()
        self._answers[number] = answer

        def settle(value: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        async def run() -> None:
            value, error = None, None
            try:
                value = await work
            except Exception as caught:  # noqa: BLE001 (it is the answer)
                error = caught
            self.loop.in_world(weather.draw(0.0005, 0.01), settle, value, error)

        self._spawn(run())
        try:
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._answers.pop(number, None)


def _number_of(socket: Any) -> int:
    return int(socket.number)


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stop(*waiting)
