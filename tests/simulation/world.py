"""One run's world: its time, its randomness, its weather, and what it writes down.

A run is a function of the commit and its seed. `World.installed` puts the world in the place of the
clock, the random numbers, the network and the database of the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import structlog
from msgspec.structs import replace
from simulation import database
from simulation.cloud import KEY_REFUSED, CloudJob, CloudModel
from simulation.deployment import DEPLOYMENT_HOST, OBJECT_INFO, DeploymentModel
from simulation.deployment_files import STORAGE_HOST
from simulation.hooks import Hooks
from simulation.loop import PROCESS, Process, SimulatedLoop
from simulation.network import ACCOUNTS, CLOUD_HOSTS, HOOK_HOST, KEY, SimulatedConnections
from simulation.weather import Weather
from yarl import URL

from proxy.app import leadership as app_leadership
from proxy.app import storage as app_storage
from proxy.cloud.connections import Connections
from proxy.cloud.observations import identity_of
from proxy.cloud.v2 import client
from proxy.engine.live_job import LiveJob
from proxy.engine.table import JobTable
from proxy.files import picture_worker
from proxy.leader import leadership
from proxy.members import directory
from proxy.members.member import Member
from proxy.runtime import clock, randomness
from proxy.runtime.clock import SystemClock
from proxy.runtime.processes import Processes
from proxy.storage.leases import check_fence
from proxy.storage.start import migrate
from proxy.translate.v2.submissions import id_by_mark

if TYPE_CHECKING:
    from simulation.plan import DeploymentPlan
    from simulation.replica import Replica

#: When runs begin that begin at noon: of a day in the past, in seconds since 1970, so that files on
#: the disk are never older than the world.
NOON = 1_577_880_000.0


#: Seconds between two looks at the members, whom nobody changes here; the product's are a quarter
#: of one, and would be a third of a run.
_MEMBERS_INTERVAL = 5.0


#: Seconds between two looks at the lease; the product's are a quarter of one.
_LEASE_INTERVAL = 1.0

#: Seconds after which a leader knows what has become of a member.
NOTICED = 20.0

#: Seconds after everything has healed within which a job is cancelled that was to be.
LATEST_CANCEL = 400.0


class Line(NamedTuple):
    """A line of the trace."""

    at: float
    place: str
    job: str
    what: str


class WorldClock(SystemClock):
    """The clocks of all processes: the time of day is off by what `ahead` has for each."""

    def __init__(self, loop: SimulatedLoop, beginning: float) -> None:
        self._loop = loop
        self._beginning = beginning
        self.ahead: dict[str, float] = {}

    def true_time(self) -> float:
        """Return the true time of day, in seconds since 1970."""
        return self._beginning + self._loop.time()

    def time_ns(self) -> int:
        """Return the time of day of the process that asks, in ns."""
        process = PROCESS.get()
        ahead = 0.0 if process is None else self.ahead.get(process.name, 0.0)
        return int((self.true_time() + ahead) * 1e9)

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self._loop.time()


class World:
    """What all processes of a run share."""

    def __init__(
        self,
        seed: int,
        *,
        rates: Mapping[str, float],
        slots: int,
        seconds: float,
        in_order: bool,
        accounts: int = 1,
        previews: bool = False,
        after_noon: float = 0.0,
        strangers: int = 0,
        deployment: DeploymentPlan | None = None,
        members: Collection[Member] = (),
        ids: str = "",
    ) -> None:
        self.rng = random.Random(seed)
        self.loop = SimulatedLoop(random.Random(self.rng.random()))
        self.loop.in_order = in_order
        self.weather = Weather(random.Random(self.rng.random()), self.loop.time, rates)
        self.clock = WorldClock(self.loop, NOON + after_noon)
        self._ids = ids
        self.members = {member.name: member for member in members}
        #: The limits that each member has had.
        self.limits = {member.name: [member.limits] for member in members}
        #: Members who have no access now, since when each has it or not, and the jobs of each that
        #: wait until it has.
        self._denied: set[str] = set()
        self._access_since: dict[str, float] = {}
        self.held: dict[str, set[str]] = {}
        #: Since when one engine has run the jobs, and the database has been well.
        self.steady_since = 0.0
        #: The key that the accounts of Comfy Cloud have, and the one that settings name.
        self.key = self.settings_key = KEY
        #: Whether the settings lack the last of the accounts.
        self.lacks_account = False
        #: How many jobs of each member were on the cloud at once, at most.
        self.most_live: Counter[str] = Counter()
        self._value_refused = rates.get("value_refused", 0.0)
        self.trace: list[Line] = []
        #: Promises that were found broken on the way, with what about.
        self.problems: list[tuple[str, str]] = []
        #: The account of each host.
        self.clouds: dict[str, CloudModel | DeploymentModel] = {
            host: CloudModel(
                self,
                host.partition(".")[0],
                slots=slots,
                seconds=seconds,
                previews=previews,
                strangers=strangers,
                ids=ids,
            )
            for host in CLOUD_HOSTS[:accounts]
        }
        #: The epoch of the newest leader that has answered a reading.
        self.newest_answer = 0
        #: When ends were recorded, by the ids of their jobs.
        self.ends: dict[str, float] = {}
        self._numbers = itertools.count(1)
        #: All processes by their names.
        self.replicas: dict[str, Replica] = {}
        self.hooks = Hooks(self)
        self.folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_memory()))
        #: The list of nodes of the deployment, if there is one.
        self.nodes = self.folder / "object_info.json"
        #: The marks of jobs by the ids that are made of them.
        self.marks: dict[str, str] = {}
        self.deployment: DeploymentModel | None = None
        if deployment is not None:
            self.nodes.write_bytes(OBJECT_INFO)
            self.deployment = self.clouds[DEPLOYMENT_HOST] = DeploymentModel(
                self, deployment, seconds=seconds, previews=previews
            )
        #: How often jobs have changed, by their orders.
        self.changes: Counter[int] = Counter()
        self._began = self.loop.time()
        #: The ids of jobs whose clients were told that they end, and when all has healed.
        self.to_end: set[str] = set()
        self.healed_at: float | None = None
        #: What is done to processes at a point of their next submission, by their names.
        self.ambushes: defaultdict[str, dict[str, Callable[[], None]]] = defaultdict(dict)
        #: The processes by their names in leases.
        self.holders: dict[str, Process] = {}

    @staticmethod
    def process() -> Process | None:
        """Return the process whose code runs."""
        return PROCESS.get()

    def numbered(self) -> int:
        """Return the next number."""
        return next(self._numbers)

    def true_time(self) -> float:
        """Return the true time of day, in seconds since 1970."""
        return self.clock.true_time()

    def true_ms(self) -> int:
        """Return the true time of day, in ms."""
        return int(self.true_time() * 1000)

    @property
    def seconds(self) -> float:
        """The seconds since the run has begun."""
        return self.loop.time() - self._began

    def seconds_at(self, ms: int) -> float:
        """Return how many seconds after the beginning of the run a true time (ms) was."""
        return ms / 1000 - self.true_time() + self.seconds

    def note(self, place: str, job: str, what: str, more: object = "") -> None:
        """Write a line of the trace."""
        if self.loop.is_closed():
            return
        if not place:
            process = PROCESS.get()
            place = "client" if process is None else process.name
        self.trace.append(Line(self.seconds, place, job, f"{what} {more}".rstrip()))

    def must_end(self, job: CloudJob) -> bool:
        """Return whether a job goes on until it is cancelled, since its client was told that it
        ends; one that nobody finds cannot be. It is within a while after all has healed."""
        waits = job.is_found and job.mark != "" and job.mark.split("/")[1] in self.to_end
        if waits and self.healed_at is not None and self.seconds > self.healed_at + LATEST_CANCEL:
            self.problems.append(("cancel_without_effect", job.mark))
            return False
        return waits

    @staticmethod
    def is_recorded(cloud_id: str) -> bool:
        """Return whether the history has a job by its id on the cloud."""
        found = database.server().raw.execute(
            "SELECT 1 FROM history WHERE cloud_id = ?", (cloud_id,)
        )
        return found.fetchone() is not None

    def cloud_jobs(self) -> list[CloudJob]:
        """Return the jobs of all accounts."""
        return [job for cloud in self.clouds.values() for job in cloud.jobs.values()]

    def took(self, mark: str) -> None:
        """Count the jobs of the member whose job an account has taken."""
        member, prompt_id = mark.split("/")[:2]
        if prompt_id in self.held.get(member, ()):
            self.problems.append(("limit_passed", f"{mark} ran without a member"))
        counts = [job.counts for job in self.cloud_jobs() if job.mark.startswith(f"{member}/")]
        self.most_live[member] = max(self.most_live[member], sum(counts))

    def handle(
        self,
        method: str,
        url: URL,
        body: bytes,
        headers: Mapping[str, str],
        answer: asyncio.Future[tuple[int, Any, dict[str, str]]],
    ) -> None:
        """Let the cloud take a request that has arrived."""
        if url.host == STORAGE_HOST and self.deployment is not None:
            found = self.deployment.files.stored(url.path)
        elif not self.accepts(url.host, headers.get("X-API-Key", self.key)):
            found = (*KEY_REFUSED, {})
        else:
            found = self.clouds[url.host].handle(method, url.path, dict(url.query), body, headers)
        if not answer.done():
            answer.set_result(found)

    def accepts(self, host: str | None, key: str) -> bool:
        """Return whether the cloud of a host accepts a key."""
        is_valid = key == self.key and not self.weather.lasts("key_refused")
        return host not in CLOUD_HOSTS or is_valid

    def change_member(self, member: Member) -> None:
        """Give a member other limits."""
        self.members[member.name] = member
        self.limits[member.name].append(member.limits)
        if member.name not in self._denied:
            database.server().change_member(member)

    def deny(self, kind: str, name: str) -> None:
        """Disable or remove a member, or revoke its token."""
        self._denied.add(name)
        self._access_since[name] = self.seconds
        member, is_removed = self.members[name], kind == "member_removed"
        if is_removed:  # what is under way is that of a member without limits, who waits
            member = Member(name)
            self.limits[name].append(member.limits)
        database.server().change_member(
            replace(member, disabled=kind == "member_disabled"),
            removed=is_removed,
            token=kind != "token_revoked",
        )

    def allow(self, name: str) -> None:
        """Give a member its access back."""
        if name in self._denied:
            self._denied.remove(name)
            self.held.pop(name, None)
            self._access_since[name] = self.seconds
            database.server().change_member(self.members[name])

    def is_noticed(self, name: str) -> bool:
        """Return whether the leader has had the time to notice whether a member has access."""
        since = max(self._access_since.get(name, -math.inf), self.steady_since)
        return self.seconds - since > NOTICED

    def check_access(self, name: str, *, granted: bool) -> None:
        """Note a problem if a member is answered who has no access, or refused who has it."""
        if granted == (name in self._denied) and self.is_noticed(name):
            self.problems.append(("access_differs", f"{name}: {granted}"))

    def leader(self) -> Process | None:
        """Return the process that had the lease last."""
        leases = database.server().raw
        found = leases.execute("SELECT holder FROM leases WHERE name = 'engine'").fetchone()
        return None if found is None else self.holders.get(found[0])

    def leads(self, process: Process | None) -> bool:
        """Return whether the process had the lease last; read only where somebody waits for it."""
        return process is not None and process.name in self.ambushes and self.leader() is process

    def check_epoch(self, process: Process | None) -> None:
        """Note a problem if a process acts on the cloud although another one has its lease."""
        leader = self.leader()
        if process is not None and leader is not None and leader is not process:
            self.problems.append(("two_engines", f"{process.name} in the term of {leader.name}"))

    def _engine_wrote(self, what: str, epoch: int) -> None:
        """Note a problem if a write of an engine has no fence, or not that of the term that lasts:
        another engine may have begun, also in the same process."""
        process, fence = PROCESS.get(), database.server().epoch
        if what.startswith("end of "):
            self.ends[what.removeprefix("end of ")] = self.seconds
        if process is not None and fence != epoch:
            about = f"{process.name} wrote in the term {epoch} with the fence {fence}: {what}"
            self.problems.append(("two_engines", about))

    @staticmethod
    def _check_fence(connection: Any, fence: Any) -> None:
        """Stands for `check_fence`, and notes the epoch of the fence."""
        check_fence(connection, fence)
        database.server().epoch = None if fence is None else fence.epoch

    def take_ambush(self, process: Process | None, point: str) -> bool:
        """Disturb a process at a point where a fault waits for it; return whether one does."""
        if process is None or point not in self.ambushes.get(process.name, {}):
            return False
        self.ambushes[process.name].pop(point)()
        return not self.weather.healed

    async def ambush(self, process: Process | None, point: str) -> None:
        """Freeze or kill a process at a point where a fault waits for it."""
        if self.take_ambush(process, point):
            await asyncio.sleep(0)  # from here on it is frozen or dead

    # --- in the place of the product's own -------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let the product run in this world during the block."""
        SimulatedConnections.world = self
        database.server().restart(
            self.true_time,
            self._engine_wrote,
            refused=self._value_refused,
            members=self.members.values(),
        )
        for name, host in zip(ACCOUNTS, CLOUD_HOSTS, strict=True):
            if self._ids:
                facts = {"prompt_id": "honoured", "prompt_id_again": self._ids}
                identity = identity_of(name, URL(f"https://{host}"))
                database.server().learn(identity, **facts)
        database.server().takes = self.weather.take
        random.seed(self.rng.random())
        structlog.configure(processors=[self._log])
        structlog.contextvars.clear_contextvars()
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(mock.patch.object(clock, "source", self.clock))
            enter(mock.patch.object(randomness, "source", random.Random(self.rng.random())))
            enter(mock.patch.object(Processes, "run", _carried_out))
            enter(mock.patch.object(JobTable, "change", self._change))
            enter(mock.patch.object(directory, "INTERVAL", _MEMBERS_INTERVAL))
            enter(mock.patch.object(leadership, "INTERVAL", _LEASE_INTERVAL))
            enter(mock.patch.object(client, "id_by_mark", self._id_by_mark))
            enter(mock.patch.object(app_leadership, "process_name", self._process_name))
            enter(mock.patch.object(app_storage, "locked_folder", _unlocked))
            enter(mock.patch.object(app_storage, "_open_database", self._open_database))
            for name, module in list(sys.modules.items()):
                if name.startswith("proxy.") and vars(module).get("Connections") is Connections:
                    enter(mock.patch.object(module, "Connections", SimulatedConnections))
                if name.startswith("proxy.") and vars(module).get("check_fence") is check_fence:
                    enter(mock.patch.object(module, "check_fence", self._check_fence))
            try:
                yield
            finally:
                self.loop.close()
                structlog.reset_defaults()
                shutil.rmtree(self.folder, ignore_errors=True)

    def _id_by_mark(self, mark: str, purpose: str) -> str:
        """Stands for `id_by_mark`: a deployment hears no mark, but an id that is made of it."""
        id_ = id_by_mark(mark, purpose)
        self.marks[id_] = mark
        return id_

    @property
    def _change(self) -> Callable[..., None]:
        """Stands for `JobTable.change`, and counts."""
        change = JobTable.change

        def counted(table: JobTable, job: LiveJob, **changes: Any) -> None:
            self.changes[job.order] += 1
            change(table, job, **changes)

        return counted

    def _process_name(self) -> str:
        process = PROCESS.get()
        name = f"process {len(self.holders) + 1}"
        if process is not None:
            self.holders[name] = process
        return name

    async def _open_database(self, settings: Any, _folder: Path) -> database.SimulatedDatabase:
        opened = database.SimulatedDatabase(self, is_server=settings.database is not None)
        if database.server().is_migrated:
            await migrate(opened)  # looks whether this release can use the schema of the next one
        return opened

    def _log(self, _logger: object, level: str, fields: dict[str, Any]) -> Any:
        """Write a line of the log into the trace; a traceback is a problem."""
        if level == "debug" or self.loop.is_closed():
            raise structlog.DropEvent
        event, error = fields.pop("event"), fields.pop("exc_info", None)
        if event == "leadership_transferred" and self.weather.lasts("cloud"):
            self.weather.handovers += 1
            if self.weather.handovers > 1:
                self.problems.append(("to_and_fro", fields))
        job = fields.pop("job", None) or structlog.contextvars.get_contextvars().get("job", "")
        if error is True:
            error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if error or level == "critical":
            process = PROCESS.get()
            if process is None or process.alive:
                self.problems.append(("traceback", f"{event}: {error!r} {fields}"))
        self.note(
            "", str(job), f"[{level}] {event}", {**fields, "error": error} if error else fields
        )
        raise structlog.DropEvent


@contextlib.contextmanager
def _unlocked(path: Path) -> Iterator[Path]:
    """Stands for `locked_folder`: a killed process of this world leaves no lock."""
    path.mkdir(parents=True, exist_ok=True)
    yield path


async def _carried_out(_: Processes, task: Mapping[str, Any], _seconds: float) -> Any:
    """Stands for `Processes.run`: processes of this world have none of their own."""
    return await asyncio.to_thread(picture_worker.carried_out, task)


def _memory() -> str | None:
    """Return a folder in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


#: The webhook of everybody in a world.
HOOK = f"https://{HOOK_HOST}/hook"
