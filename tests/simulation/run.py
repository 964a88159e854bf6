"""One run of a plan: the replicas and clients begin, faults come, all heals, and is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import itertools
import random
import sys
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from msgspec.structs import replace
from simulation import promises, sums, turns
from simulation.balancer import Balancer
from simulation.clients import SimulatedClient, Submission
from simulation.database import WRITES, server
from simulation.deployment import DEPLOYMENT_HOST
from simulation.loop import PROCESS, DeadlockError
from simulation.network import CLOUD_HOSTS, KEY
from simulation.passing import GoneError, Request
from simulation.plan import MEMBERS, POINTS, SPENDER, Fault, Plan, limits_of
from simulation.promises import BrokenPromiseError
from simulation.replica import Parts, Replica
from simulation.world import HOOK, NOTICED, Line, World

from proxy.storage.database import StorageError
from proxy.storage.webhooks import GATEWAY
from proxy.translate.errors import LocalError
from proxy.webhooks.delivery import RetrySchedule
from proxy.webhooks.endpoints import NewWebhook
from proxy.webhooks.messages import JOB_TYPES

#: Faults that are outages of a kind, of one replica or of all.
OUTAGES = frozenset(
    {"peer", "peer_out", "peer_in", "stale", "front"}
    | {"database", "slow_database", "cloud", "half_lost", "no_credits", "disk_full", "key_refused"}
    | {"deployment_stopped", "deployment_starting", "deployment_full"}
)

#: Runs after which their memory is given back.
_RUNS_OF_A_COLLECTION = 10
_runs = itertools.count()

#: Seconds without an engine while a replica reaches the database, however slow it is: a lease has
#: run out by then, and what an engine reads at its beginning is read, also by one that was killed
#: once.
_WITHOUT_ENGINE = 60.0

#: How often clients ask by the balancer; else they ask any process.
_BALANCED = 0.7

#: Seconds after the last fault, beside those of the jobs, within which everything must have ended.
QUIET = 900.0
#: Seconds after the last job for what is written, told and forgotten late.
SETTLE = 20.0


@dataclass(frozen=True)
class Result:
    """What came of a run: the broken promise, if one was, and its trace."""

    plan: Plan
    broken: BrokenPromiseError | None
    trace: list[Line]
    steps: int
    seconds: float
    jobs: int
    terms: int

    @property
    def digest(self) -> str:
        """Return what differs whenever the trace does."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()[:16]


class Run:
    """A run under way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World(
            plan.seed,
            rates=plan.rates,
            slots=plan.slots,
            seconds=plan.seconds,
            in_order=plan.in_order,
            accounts=plan.accounts,
            previews=plan.previews,
            after_noon=plan.after_noon,
            strangers=plan.strangers,
            deployment=plan.deployment,
            members=plan.members,
            ids=plan.ids,
        )
        self.jobs: list[Submission] = []
        self.by_id: dict[str, Submission] = {}
        self.replicas: list[Replica] = []
        self.clients: list[SimulatedClient] = []
        #: Of members, what they end now without saying which job.
        self.ending: list[tuple[str, str]] = []
        self.over = False
        self.broken: BrokenPromiseError | None = None
        self.has_hook = False
        self.healed_at = 0.0
        self._rng = random.Random(f"{plan.seed} run")
        self._tasks: list[asyncio.Task[Any]] = []
        self._failed = False
        self._balancer = Balancer(self.world, self.replicas)

    # --- for clients -----------------------------------------------------------------------

    def any_replica(self, rng: random.Random) -> Replica | None:
        """Return a replica that serves."""
        serving = [replica for replica in self.replicas if replica.serves]
        if serving and rng.random() < _BALANCED:
            return self._balancer.chosen(rng)
        return rng.choice(serving) if serving else None

    def find(self, prompt_id: str) -> Submission | None:
        """Return a job by its id."""
        for job in self.jobs:
            self.by_id[job.prompt_id] = job
        return self.by_id.get(prompt_id)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work of a client beside; a promise that it finds broken ends the run."""
        token = PROCESS.set(None)  # a client outlives the process from which it hears
        try:
            self._tasks.append(self.world.loop.create_task(self._guarded(work)))
        finally:
            PROCESS.reset(token)

    def fail(self, broken: BrokenPromiseError) -> None:
        """End the run with a broken promise."""
        if self.broken is None:
            self.world.note("", "", "BROKEN", str(broken))
            self.broken = broken

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except BrokenPromiseError as broken:
            self.fail(broken)

    # --- the run ---------------------------------------------------------------------------

    def execute(self) -> Result:
        """Run it whole."""
        world = self.world
        server()
        _give_back(next(_runs))
        with world.installed():
            try:
                world.loop.run_until_complete(self._whole())
            except DeadlockError as error:
                self.fail(BrokenPromiseError("never_quiet", error))
            finally:
                world.loop.close()
                self._dispose()
        terms = sum("leadership_started" in line.what for line in world.trace)
        return Result(
            self.plan,
            self.broken,
            world.trace,
            world.loop.steps,
            world.seconds,
            len(self.jobs),
            terms,
        )

    async def _whole(self) -> None:
        plan, world = self.plan, self.world
        for number in range(plan.replicas):
            name = f"replica-{number + 1}"
            self.replicas.append(Replica(world, name, plan))
            world.replicas[name] = self.replicas[-1]
            world.clock.ahead[name] = plan.skews[number]
        self.clients = [
            SimulatedClient(self, number, client) for number, client in enumerate(plan.clients)
        ]
        for replica in self.replicas:
            replica.on_serving = partial(self._look_at_once, replica)
            replica.start()
        self.spawn(self._balancer.follow())
        await asyncio.sleep(2.0)
        if plan.hook:
            await self._add_hook()
        for client in self.clients:
            if client.listens:
                self.spawn(client.keep_listening())
        self.spawn(self._watch_engines())
        self.spawn(self._watch_states())
        for action in plan.actions:
            self.spawn(self._later(action.at, self.clients[action.client].act(action)))
        for fault in plan.faults:
            self.spawn(self._later(fault.at, self._disturb(fault)))
        lasting = [fault.at + fault.seconds for fault in plan.faults if fault.kind != "clock"]
        ends = world.loop.time() + max([plan.duration, *lasting])
        while world.loop.time() < ends and not self._stops():  # noqa: ASYNC110 (costs nothing)
            await asyncio.sleep(1.0)
        self._heal()
        await self._wait_quiet()
        if not self._stops():
            await self._look()
        self.over = True

    def _look_at_once(self, replica: Replica) -> None:
        """Let clients look for their jobs at a replica as soon as it serves."""
        for job in self.jobs:
            if job.outcome == "accepted" and not job.in_history:
                self.spawn(job.client.poll(job, self._rng, replica))
        for client in self.clients:
            self.spawn(client.glance(replica))

    async def _add_hook(self) -> None:
        """Add a webhook that hears of all jobs, if a replica takes it."""
        replica = self.any_replica(self._rng)
        if replica is None:
            return

        async def work(parts: Parts, *_: Any) -> None:
            await parts.webhooks.add(GATEWAY, NewWebhook(HOOK, tuple(JOB_TYPES), gateway=True))

        with contextlib.suppress(GoneError, TimeoutError, LocalError, StorageError):
            await replica.ask(Request(work, "POST", "/hooks"), 10.0)
            self.has_hook = True

    async def _look(self) -> None:
        await asyncio.sleep(SETTLE)
        if self.plan.is_long:
            await self._wait_told()
        for client in self.clients:
            await client.look_at_the_end()
        # A request that is under way holds something.
        while any(replica.is_asked for replica in self.replicas):  # noqa: ASYNC110 (costs nothing)
            await asyncio.sleep(0.05)
        self._stops()
        checks = (
            promises.check_cloud,
            promises.check_sockets,
            promises.check_end,
            sums.check_sums,
            turns.check_turns,
        )
        for check in checks:
            if self.broken is None:
                try:
                    check(self)
                except BrokenPromiseError as broken:
                    self.fail(broken)

    async def _wait_quiet(self) -> None:
        """Wait until no job is live anywhere."""
        world = self.world
        ends = world.loop.time() + QUIET + 2 * self.plan.seconds * len(self.jobs)
        while not self._stops():
            await asyncio.sleep(2.0)
            live = server().raw.execute("SELECT count(*) FROM jobs").fetchone()[0]
            if not live and all(job.answered_at for job in self.jobs):
                return
            if world.seconds > self.healed_at + promises.RESTS:
                await self._give_up_over_budget()
            if world.loop.time() >= ends:
                rows = server().raw.execute("SELECT prompt_id, state, account FROM jobs").fetchall()
                self.fail(BrokenPromiseError("never_quiet", rows))

    async def _wait_told(self) -> None:
        """Wait until each webhook was attempted again, which is put off for hours."""
        ends = self.world.loop.time() + 2 * RetrySchedule().longest
        waiting = "SELECT count(*) FROM webhook_deliveries WHERE outcome = 'waiting'"
        for (count,) in iter(lambda: server().raw.execute(waiting).fetchone(), None):
            if not count or self.world.loop.time() >= ends:
                return
            await asyncio.sleep(60.0)

    async def _give_up_over_budget(self) -> None:
        """Let clients cancel what waits until their budget is renewed (`docs/costs.md`): one may
        that was accepted while no price was known, or before others have run for longer."""
        waiting = server().raw.execute(
            "SELECT prompt_id, estimate FROM jobs WHERE state = 'queued' AND member = ?", (SPENDER,)
        )
        for prompt_id, estimate in waiting.fetchall():
            job = self.find(prompt_id)
            if job is not None and promises.is_budget_spent(self, estimate):
                await job.client.give_up(job)

    def _stops(self) -> bool:
        """Return whether a promise is broken."""
        problems = [
            *self.world.problems,
            *(("traceback", problem) for problem in self.world.loop.problems),
        ]
        if problems and self.broken is None:
            self.fail(BrokenPromiseError(*problems[0]))
        return self.broken is not None

    @staticmethod
    async def _later(seconds: float, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.sleep(seconds)
        await work

    # --- faults ----------------------------------------------------------------------------

    async def _disturb(self, fault: Fault) -> None:
        world, weather = self.world, self.world.weather
        if weather.healed:
            return
        replica = None if fault.replica < 0 else self.replicas[fault.replica]
        name = "" if replica is None else replica.name
        world.note(name or "all", "", f"FAULT {fault.kind}", f"{fault.seconds:.1f} s")
        match fault.kind:
            case "kill" | "freeze" if replica is not None:
                replica.process.fuse = fault.steps
                replica.process.on_fuse = replica.kill if fault.kind == "kill" else replica.freeze
                await asyncio.sleep(fault.seconds)
                if fault.kind == "freeze":
                    replica.thaw()
                elif not replica.process.alive:
                    replica.start()
            case "ambush_kill" | "ambush_freeze":
                # It is the engine that submits, wherever that is.
                point = POINTS[fault.steps % len(POINTS)]
                for each in self.replicas:
                    world.ambushes[each.name][point] = partial(
                        self._spring, each, fault.kind, fault.seconds
                    )
            case "frozen_write" | "late_lease":
                point = "write" if fault.kind == "frozen_write" else "lease"
                for each in self.replicas:
                    world.ambushes[each.name][point] = partial(
                        self._disturb_engine, each, point, fault.seconds
                    )
            case "upgrade":
                async for each in self._replaced(fault.seconds):
                    each.is_newer = True
                    server().migrate()
            case "account_removed":
                world.lacks_account = True
                async for _ in self._replaced(0.5):
                    pass
                await asyncio.sleep(fault.seconds)
                world.lacks_account = False
                async for _ in self._replaced(0.5):
                    pass
            case "member_disabled" | "member_removed" | "token_revoked":
                await self._deny(fault, MEMBERS[fault.steps % len(MEMBERS)])
            case "limits_changed":
                name = MEMBERS[fault.steps % len(MEMBERS)]
                limits = limits_of(random.Random(fault.at), name, 0.5)
                world.change_member(replace(world.members[name], limits=limits))
            case "key_replaced":
                world.key = f"{KEY}-{fault.steps}"
                await asyncio.sleep(fault.seconds)
                world.settings_key = world.key
            case "restart" if replica is not None and replica.serves and not replica.process.frozen:
                await replica.stop()
                await asyncio.sleep(fault.seconds)
                self._start_killed(replica)
            case "clock":
                world.clock.ahead[name] = fault.seconds
            case "table_refused":
                tables = list(WRITES)
                weather.begin(fault.kind, fault.seconds, tables[fault.steps % len(tables)])
            case "other_cloud":
                weather.begin("cloud", fault.seconds, CLOUD_HOSTS[-1])
            case "deployment_away":
                weather.begin("cloud", fault.seconds, DEPLOYMENT_HOST)
            case _ if fault.kind in OUTAGES:
                weather.begin(fault.kind, fault.seconds, name)

    async def _replaced(self, seconds: float) -> AsyncIterator[Replica]:
        """Stop one replica after the other, yield it after a while, and start it again."""
        for each in self.replicas:
            if each.serves and not each.process.frozen and not self.world.weather.healed:
                await each.stop()
                await asyncio.sleep(seconds)
                yield each
                self._start_killed(each)

    async def _deny(self, fault: Fault, name: str) -> None:
        """Take a member's access for a while. Once that must have been noticed, what waits stays,
        but for what was on its way before."""
        world, ends = self.world, self.world.seconds + fault.seconds
        world.deny(fault.kind, name)
        if fault.kind != "token_revoked" and fault.seconds > NOTICED:
            await asyncio.sleep(NOTICED + 0.5)
            leaders = [each.parts for each in self.replicas if each.parts and each.leads]
            if world.is_noticed(name) and len(leaders) == 1:
                table = leaders[0].engine.table
                waiting = [job for job in table if job.member == name and not job.account]
                world.held[name] = {job.prompt_id for job in waiting}
        await asyncio.sleep(max(0.0, ends - world.seconds))
        world.allow(name)

    def _spring(self, replica: Replica, kind: str, seconds: float) -> None:
        if self.world.weather.healed:
            return
        if kind == "ambush_kill":
            replica.kill()
            self.world.loop.in_world(seconds, self._start_killed, replica)
        else:
            replica.freeze()
            self.world.loop.in_world(seconds, replica.thaw)

    def kill_engine(self) -> None:
        """Kill the replica that runs the engine, for a while."""
        for replica in self.replicas:
            if self.world.leader() is replica.process and not replica.process.frozen:
                self._spring(replica, "ambush_kill", 5.0)

    def _disturb_engine(self, replica: Replica, point: str, seconds: float) -> None:
        """Freeze the replica that runs the engine, or cut it off from the database: its lease is
        answered once more. The next one to run the engine is left alone."""
        for ambushes in self.world.ambushes.values():
            ambushes.pop(point, None)
        if point == "write":
            self._spring(replica, "frozen_write", seconds)
        elif not self.world.weather.healed:
            self.world.note(replica.name, "", "is cut off from the database")
            self.world.weather.begin("database", seconds, replica.name)

    @staticmethod
    def _start_killed(replica: Replica) -> None:
        if not replica.process.alive:
            replica.start()

    async def _watch_engines(self) -> None:
        """At most one engine is active at any time; a frozen one may believe that it is. There is
        one before long, where a replica can run it."""
        leader, led_at = "", 0.0
        while not self.over:
            active = [
                replica.name
                for replica in self.replicas
                if replica.leads and not replica.process.frozen
            ]
            if len(active) > 1:
                raise BrokenPromiseError("two_engines", active)
            able = [replica.name for replica in self.replicas if self._could_lead(replica)]
            if active or not able:
                led_at = self.world.seconds
            elif self.world.seconds - led_at > _WITHOUT_ENGINE:
                raise BrokenPromiseError("no_engine", able)
            if active != [leader] or self.world.weather.database_ill:
                leader, self.world.steady_since = "".join(active), self.world.seconds
            await asyncio.sleep(0.5)

    def _could_lead(self, replica: Replica) -> bool:
        """Return whether a replica serves and reaches the database."""
        process = replica.process
        is_awake = replica.serves and not process.frozen
        weather = self.world.weather
        takes_leases = not (weather.lasts("disk_full") or weather.database_away(process))
        return is_awake and takes_leases

    async def _watch_states(self) -> None:
        """What has become of a job is in the database, unless that is away."""
        states = promises.StoredStates()
        while not self.over:
            await asyncio.sleep(1.0)
            states.check(self.world, [each for each in self.replicas if each.leads])

    def _heal(self) -> None:
        self.healed_at = self.world.healed_at = self.world.seconds
        self.world.note("", "", "HEALED")
        self.world.weather.heal()
        self.world.settings_key, self.world.lacks_account = self.world.key, False
        for name in MEMBERS:
            self.world.allow(name)
        for replica in self.replicas:
            replica.process.fuse = None
            replica.thaw()
            if replica.is_outdated:
                replica.kill()
            if not replica.process.alive:
                replica.start()

    def _dispose(self) -> None:
        """Close what has not ended, where nothing can be seen of it any more."""
        tasks = [task for task in self._tasks if not task.done()]
        for replica in self.replicas:
            for process in replica.processes:
                tasks += process.unfinished()
        with _ends_left_out():
            for task in tasks:
                task._log_destroy_pending = False
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
            self.replicas.clear()
            self.clients.clear()
            tasks.clear()
            self._tasks.clear()


@contextlib.contextmanager
def _ends_left_out() -> Iterator[None]:
    """Say nothing of the ends of blocks that a killed process has not come to: they run without a
    loop when their coroutines are closed, and what they call (`EventSocket.close`) is not
    awaited."""
    with mock.patch.object(sys, "unraisablehook"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield


def _give_back(runs: int) -> None:
    """Give the memory of previous runs back, now and then, and never while one is under way."""
    gc.disable()
    if runs % _RUNS_OF_A_COLLECTION == 0:
        with _ends_left_out():
            gc.collect()
    if runs == 0:
        gc.freeze()  # what is there before the first run is there in all


def run(plan: Plan) -> Result:
    """Run a plan."""
    return Run(plan).execute()
