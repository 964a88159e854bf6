"""A replica: the real services, composed by `proxy.app`, in a process that can be disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace
from simulation.deployment import DEPLOYMENT_HOST
from simulation.loop import PROCESS, Process
from yarl import URL

from proxy.app.accounts import open_accounts
from proxy.app.jobs import Jobs, open_jobs, run_engine
from proxy.app.process import Process as Given
from proxy.app.process import policy_of
from proxy.app.resources import open_resources
from proxy.app.storage import open_storage
from proxy.app.webhooks import open_webhooks
from proxy.backoff import Backoff
from proxy.budget import MemoryBudget
from proxy.cloud.event_socket import Timeouts
from proxy.files.service import Files
from proxy.metrics import Metrics
from proxy.settings import AccountAccess, Settings
from proxy.webhooks.endpoints import Webhooks
from proxy.webhooks.schedule import RetrySchedule

if TYPE_CHECKING:
    from simulation.plan import Plan
    from simulation.world import World

T = TypeVar("T")

#: Webhooks are attempted again within seconds: else a short run would last for hours.
_QUICK = RetrySchedule(timeout=3.0, backoff=Backoff(0.2, 2.0))

#: The API key of the account.
KEY = "comfyui-simulated-key-0123456789"


class GoneError(ConnectionError):
    """Raised for a request whose replica is not there, or has gone before it has answered."""


class Parts:
    """The services of a running replica, as properties look at them."""

    def __init__(
        self,
        given: Given,
        files: Files,
        jobs: Jobs,
        election: Any,
        accounts: Any,
        webhooks: Webhooks,
    ) -> None:
        self.given = given
        self.webhooks = webhooks
        self.files = files
        self.jobs = jobs
        self.election = election
        self.accounts = accounts


class Replica:
    """One replica by its name. `parts` are there while it serves."""

    def __init__(self, world: World, name: str, plan: Plan) -> None:
        self._world = world
        self._loop = world.loop
        self._plan = plan
        self.name = name
        #: Whether the next process is of the next release.
        self.is_newer = False
        self.process = Process(name)
        self.parts: Parts | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self.starts = 0
        self.on_serving: Callable[[], None] = lambda: None
        #: All processes that it had.
        self.processes: list[Process] = []

    @property
    def serves(self) -> bool:
        """Whether a client can connect."""
        return self.parts is not None and self.process.alive

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a new process with an empty memory."""
        self.process = Process(self.name, self.is_newer)
        self.processes.append(self.process)
        self.parts, self._stop = None, asyncio.Event()
        self.starts += 1
        self._world.note(self.name, "", "starts")
        self._task = self._spawn(self._run())

    def kill(self) -> None:
        """Kill the process: nothing of it runs any more."""
        if not self.process.alive:
            return
        self._world.note(self.name, "", "is killed")
        self.process.alive = False
        self._gone()

    async def stop(self) -> None:
        """Ask the process to end, and wait until it has."""
        self._world.note(self.name, "", "is asked to stop")
        process = self.process
        self._stop.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=60.0)
        if process.alive:  # else it was killed meanwhile, and another one may be there
            process.alive = False
            self._gone()

    def freeze(self) -> None:
        """Let the process stand still."""
        self._world.note(self.name, "", "freezes")
        self.process.frozen = True

    def thaw(self) -> None:
        """Let the process go on."""
        if self.process.frozen:
            self._world.note(self.name, "", "thaws")
            self._loop.thaw(self.process)

    def _gone(self) -> None:
        self.parts = None
        self._world.bus.cut(self.process)
        for cloud in self._world.clouds.values():
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
            return self._loop.create_task(work)
        finally:
            PROCESS.reset(token)

    async def _run(self) -> None:
        process = self.process
        try:
            async with self._opened() as parts:
                if process.alive:
                    self.parts = parts
                    self._world.note(self.name, "", "serves")
                    self.on_serving()
                await self._stop.wait()
                self.parts = None
            if process.sessions:
                about = f"{self.name} has ended with {process.sessions} open sessions"
                self._world.problems.append(("left_behind", about))
        except Exception as error:  # noqa: BLE001 (as a process that ends with an error)
            self._world.note(self.name, "", f"could not start: {error!r}")
            self._loop.in_world(5.0, self._start_again, process)

    def _start_again(self, process: Process) -> None:
        if process is self.process and process.alive and not self._stop.is_set():
            process.alive = False
            self._gone()
            self.start()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Parts]:
        """Open what `proxy.app.lifespan` opens, without the HTTP server."""
        server = {
            "database": "postgresql://u:p@database/p",
            "bus": "redis://bus/0",
        }
        settings = Settings(
            data_dir=self._world.folder / self.name,
            prefetch="off",
            credits_per_second=self._plan.credits_per_second,
            **({} if self._plan.alone else server),
        )
        policy = policy_of(settings)
        if not self._plan.is_long:
            policy = replace(policy, webhooks=_QUICK)
        if self._plan.reads_often:
            policy = replace(policy, connected_wait=3.0, lost_wait=1.0)
        given = Given(
            settings,
            Timeouts(),
            policy,
            asyncio.Event(),
            Metrics(),
            MemoryBudget(settings.memory_bytes),
        )
        slots = self._plan.slots if self._plan.fixed_slots else 0
        names, hosts = ("default", "second"), [*self._world.clouds]
        access = [
            AccountAccess(name, URL(f"https://{host}"), KEY, slots)
            for name, host in zip(names, hosts[: self._plan.accounts], strict=False)
        ]
        if (deployment := self._plan.deployment) is not None:
            members, nodes = deployment.members, self._world.nodes
            url = URL(f"https://{DEPLOYMENT_HOST}")
            access.append(AccountAccess("studio", url, KEY, slots, members=members, nodes=nodes))
        async with (
            open_storage(given) as storage,
            open_accounts(given, storage, access) as cloud,
            open_resources(given, storage, cloud) as resources,
            open_jobs(given, storage, resources) as jobs,
            open_webhooks(given, storage, jobs) as webhooks,
            run_engine(given, storage, cloud, resources, jobs, webhooks.runner) as election,
        ):
            yield Parts(given, resources.files, jobs, election, cloud.accounts, webhooks.endpoints)

    # --- requests --------------------------------------------------------------------------

    @property
    def is_asked(self) -> bool:
        """Whether a client waits for an answer."""
        return any(not answer.done() for answer in self._answers.values())

    async def ask(
        self,
        work: Callable[[Jobs, Callable[[Any], None]], Coroutine[Any, Any, Any]],
        timeout: float,
    ) -> Any:
        """Let the replica handle a request, and return its answer.

        `work` gets the services, and a function that sends the answer before the handler ends.
        Raises what the handler raises, `GoneError`, and `TimeoutError`.
        """
        weather = self._world.weather
        await asyncio.sleep(weather.draw(0.0005, 0.01))
        parts = self.parts
        if parts is None or not self.process.alive:
            raise GoneError(self.name)
        self._number += 1
        number, answer = self._number, self._loop.create_future()
        self._answers[number] = answer

        def send(value: Any, error: BaseException | None = None) -> None:
            self._loop.in_world(weather.draw(0.0005, 0.01), settle, value, error)

        def settle(value: Any, error: BaseException | None) -> None:
            if not answer.done():
                if error is None:
                    answer.set_result(value)
                else:
                    answer.set_exception(error)

        async def handle() -> None:
            try:
                send(await work(parts.jobs, send))
            except Exception as error:  # noqa: BLE001 (it is the answer)
                send(None, error)

        self._spawn(handle())
        try:
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._answers.pop(number, None)
