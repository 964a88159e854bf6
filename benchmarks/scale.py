"""What one engine carries, as far as its own decisions bound it: a simulation in memory.

    python benchmarks/scale.py

The engine's scheduler, table, recorder and trackers lead jobs through their lives, with
neither a cloud nor a storage: those cost time of their own. A job that ends gives its slot to the
next one of all that wait, one for each member. Every measurement ends after some seconds. Prints
tables in Markdown.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any

import structlog

from proxy.engine.accounts import Account, Slots
from proxy.engine.forecast import Forecast
from proxy.engine.live_job import LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.term import Term
from proxy.engine.tracker import Ended, EventReceived, SnapshotReceived, Tracker
from proxy.jobs.clients import Clients
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import JobContent, JobState
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.members.member import Member
from proxy.metrics import Metrics
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.storage.history import Recorded
from proxy.storage.leases import Lease
from proxy.translate.snapshots import Snapshot

#: Accounts, members and running jobs. The first is one account alone.
SIZES = [(1, 10, 5), (10, 100, 50), (100, 1_000, 500), (1_000, 10_000, 5_000)]
#: Seconds of each measurement, and how many turns of jobs it has at most.
SECONDS, MAX_TURNS = 5.0, 2_000
#: Events of a job between its start and its end, as a run of 20 steps sends them.
STEPS = 20

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a house", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
    "5": {
        "class_type": "KSampler",
        "inputs": {"positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]},
    },
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"filename_prefix": "house", "images": ["6", 0]}},
}
PICTURE = {"images": [{"filename": "house_00001_.png", "subfolder": "", "type": "output"}]}


class NoStorage:
    """A repository of jobs that keeps nothing."""

    async def finish(self, *_: Any, **__: Any) -> Recorded:
        """Accept an end."""
        return Recorded()


@dataclass
class Simulation:
    """The parts of an engine over accounts without a cloud."""

    accounts: int
    members: int
    running: int
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        term, storage, cloud = Term(Lease("engine", "scale", 1)), NoStorage(), object()
        slots = self.running // self.accounts
        self.joined: dict[str, Account] = {}
        for number in range(self.accounts):
            name = f"a{number}"
            self.joined[name] = Account(name, cloud, "", slots=Slots(slots))  # type: ignore[arg-type]
        members = [Member(f"m{number}") for number in range(self.members)]
        self.known = {member.name: member for member in members}
        self.scheduler = Scheduler(
            self.joined,
            self.known.__getitem__,
            "jobs",
            clock=time.monotonic,
            turn=asyncio.Event(),
        )
        self.forecast = Forecast(self.scheduler)
        feed = LiveFeed(
            LiveJobs(storage, MemoryBudget(2**28)),  # type: ignore[arg-type]
            Subscribers(Clients(), Supervisor()),
            History(storage, None),  # type: ignore[arg-type]
        )
        recorder = JobRecorder(storage, term, 10_000, shares=self.scheduler.shares_of)  # type: ignore[arg-type]
        self.table = JobTable(recorder, feed, term, Metrics())
        self.jobs: dict[LiveJob, Tracker] = {}

    def add(self, member: str) -> LiveJob:
        """Add a new job to the table."""
        order = next(self.numbers)
        job = LiveJob(f"job-{order}", member, order, None, f"client-{member}", 0, order=order)
        job.outputs_to_execute = ("7",)
        self.table.add(job)
        self.table.advance(job, JobState.QUEUED, accepted=True)
        return job

    def wait(self, member: str) -> None:
        """Let a new job of a member wait."""
        self.scheduler.enqueue(self.add(member))

    def start(self, job: LiveJob) -> None:
        """Lead a job that has a slot until it runs."""
        job.content = JobContent({**GRAPH}, {})
        self.table.advance(job, JobState.SUBMITTING)
        self.scheduler.shares_of([job])
        self.table.advance(job, JobState.SUBMITTED, cloud_id=f"cloud-{job.order}")
        self.jobs[job] = Tracker(job.prompt_id, job.graph, job.outputs_to_execute)
        self.jobs[job].receive(EventReceived("execution_start", {}), 0)
        self.table.advance(job, JobState.RUNNING, started_at=0)
        self.scheduler.started(job)

    def fill(self) -> None:
        """Let as many jobs run as there are slots."""
        members = cycle(self.known)
        for account, member in zip(
            islice(cycle(self.joined.values()), self.running), members, strict=False
        ):
            job = self.add(member)
            self.scheduler.assign(job, account)
            self.start(job)

    async def end(self, job: LiveJob) -> None:
        """Lead a job that runs into its history."""
        snapshot = Snapshot(job.cloud_id, "completed", settled=True, outputs={"7": PICTURE})
        for command in self.jobs.pop(job).receive(SnapshotReceived(snapshot), 1000):
            if isinstance(command, Ended):
                await self.table.finish(job, command.end)
                self.scheduler.ended(job, 1.0)
                self.scheduler.free(job)
                self.table.leave(job, command.end)

    async def turn(self) -> None:
        """End the job that has run longest, and give its slot to the one whose turn it is."""
        await self.end(next(iter(self.jobs)))
        job = self.scheduler.next()
        assert job is not None, "a slot is free, and jobs wait"
        self.start(job)
        self.wait(job.member)


def events(node: int) -> Iterator[EventReceived]:
    """What the cloud sends of one step of a node."""
    for value in range(1, STEPS + 1):
        state = {"value": value, "max": STEPS, "state": "running", "node_id": str(node)}
        yield EventReceived("progress_state", {"nodes": {str(node): state}})
        yield EventReceived("progress", {"node": str(node), "value": value, "max": STEPS})


async def turns(size: tuple[int, int, int]) -> str:
    """Measure turns and the forecast; return the row of the table."""
    world = Simulation(*size)
    world.fill()
    for member in world.known:
        world.wait(member)
    done, begun = 0, time.perf_counter()
    while done < MAX_TURNS and time.perf_counter() - begun < SECONDS:
        await world.turn()
        done += 1
    rate = done / (time.perf_counter() - begun)
    world.scheduler.changed()
    begun = time.perf_counter()
    world.forecast.positions()
    forecast = 1000 * (time.perf_counter() - begun)
    cells = [*(f"{number:,}" for number in size), f"{rate:,.{0 if rate >= 10 else 2}f}"]
    return "| " + " | ".join([*cells, f"{forecast:,.1f}"]) + " |"


def events_a_second(jobs: int) -> tuple[int, float]:
    """Return how many events so many trackers took, and how many a second."""
    trackers = [Tracker(f"job-{number}", {**GRAPH}, ["7"]) for number in range(jobs)]
    taken, begun = 0, time.perf_counter()
    for event in events(5):
        for tracker in trackers:
            tracker.receive(event, taken)
        taken += jobs
        if time.perf_counter() - begun >= SECONDS:
            break
    return taken, taken / (time.perf_counter() - begun)


def memory(size: tuple[int, int, int]) -> tuple[float, float]:
    """Return the bytes of a running job with its tracker, and of one that waits."""
    world = Simulation(*size)
    gc.collect()
    tracemalloc.start()
    world.fill()
    running, _ = tracemalloc.get_traced_memory()
    for member in world.known:
        world.wait(member)
    both, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return running / world.running, (both - running) / world.members


async def main() -> None:
    """Measure and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print("| accounts | members | running jobs | jobs placed a second | forecast, ms |")
    print("|---:|---:|---:|---:|---:|")
    for size in SIZES:
        print(await turns(size), flush=True)
    taken, rate = events_a_second(SIZES[-1][2])
    running, waiting = memory(SIZES[-1])
    print("\n| with the numbers of the last row | |\n|---|---:|")
    print(f"| events through the trackers, a second (of {taken:,}) | {rate:,.0f} |")
    print(
        f"| memory of a running job with its tracker, without its graph, bytes | {running:,.0f} |"
    )
    print(f"| memory of a waiting job, bytes | {waiting:,.0f} |")


if __name__ == "__main__":
    asyncio.run(main())
