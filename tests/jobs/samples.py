"""Jobs that tests are made of, and what clients ask about them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxy.costs.job_cost import Pricing
from proxy.engine.live_job import LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.jobs.checks import Checks
from proxy.jobs.conversion import payload_of, stored_of
from proxy.jobs.engine_calls import OverviewAnswered, RunAnswered, Submitted
from proxy.jobs.estimates import JobEstimator
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import (
    AccountView,
    Job,
    JobContent,
    JobEnd,
    JobRequest,
    JobState,
    Wish,
)
from proxy.jobs.payload_cache import QueueItem
from proxy.jobs.service import JobQuery, JobService
from proxy.sharing.turns import thread_turns
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey
from proxy.storage.jobs import JobRepository
from proxy.translate.errors import LocalError
from proxy.translate.packs import JobView
from proxy.translate.workflow_metadata import workflow_id_of

_WISHES = {"cancel_requested", "interrupted"}
_CONTENT = ("graph", "extra_data", "targets", "credentials", "rewriting")


def with_content(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a job, those of its content made one."""
    known = {name: fields[name] for name in _CONTENT if name in fields}
    rest = {name: value for name, value in fields.items() if name not in (*_CONTENT, *_WISHES)}
    if _WISHES & fields.keys():
        wishes = {name: fields.get(name, False) for name in _WISHES}
        rest["wish"] = Wish.of(**wishes)
    content = JobContent(**{"graph": {}, "extra_data": {}, **known})
    return {"workflow_id": workflow_id_of(content.extra_data), **rest, "content": content}


def job(
    prompt_id: str = "one",
    member: str = "anna",
    *,
    number: float = 0,
    client_id: str | None = "c",
    state: JobState = JobState.QUEUED,
    **fields: Any,
) -> LiveJob:
    """A job without a graph, which waits."""
    values = with_content({"created_at": 0, **fields})
    return LiveJob(prompt_id, member, number, client_id=client_id, state=state, **values)


MEMBER = "local"


class NoPacks:
    """No node packs."""

    async def rewrite(self, *_: object) -> None:
        return None

    def view(self, *_: object) -> JobView:
        raise AssertionError


class NoChecks(Checks):
    """Leaves all graphs to the cloud."""

    def __init__(self) -> None:
        self.packs = NoPacks()

    async def check(self, member: str, request: JobRequest) -> None:
        return None


def estimator() -> JobEstimator:
    """An estimator without prices."""
    pricing = Pricing(known=lambda _: None, price_of=lambda _info, _inputs: None, rate=0)
    return JobEstimator(pricing, lambda _: (), lambda _member, _shape: None, thread_turns())


def new(prompt_id: str, number: float = 0, **fields: Any) -> LiveJob:
    values: dict[str, Any] = {
        "member": MEMBER,
        "graph": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
        "client_id": "c",
        "created_at": 1000,
        "outputs_to_execute": ("1",),
        "state": JobState.QUEUED,
        "accepted": True,
        **fields,
    }
    return LiveJob(prompt_id=prompt_id, number=number, **with_content(values))


class SilentEngine:
    """An engine that runs nothing, and notes what it is asked."""

    def __init__(self) -> None:
        self.received: list[Job] = []
        self.released: list[tuple[JobKey, bool]] = []
        self.cancelled: list[str] = []

    def submit(self, job: Job) -> asyncio.Future[Submitted]:
        self.received.append(job)
        return asyncio.get_running_loop().create_future()

    def release(self, key: JobKey, *, watched: bool) -> None:
        self.released.append((key, watched))

    def cancel(
        self, keys: Iterable[JobKey], *, interrupt: bool = False, cleared: bool = False
    ) -> asyncio.Task[bool | LocalError | StorageError]:
        async def cancel() -> bool | LocalError | StorageError:
            self.cancelled.extend(key.prompt_id for key in keys)
            return True

        return asyncio.create_task(cancel())

    def overview(self, member: str | None) -> OverviewAnswered:
        return OverviewAnswered((), ())

    def run(self, key: JobKey, *, with_preview: bool) -> RunAnswered:
        return RunAnswered(None)

    def running_node(self, member: str, client_id: str) -> str | None:
        return None

    def account_views(self) -> tuple[AccountView, ...]:
        return ()

    async def stop(self) -> None:
        pass


@dataclass
class Room:
    """What clients ask, and what an engine would do."""

    service: JobService
    engine: SilentEngine
    recorder: JobRecorder
    repository: JobRepository
    count: int = 1000

    @property
    def feed(self) -> LiveFeed:
        return self.service.feed

    def put(self, job: LiveJob) -> LiveJob:
        if not job.order:
            self.count += 1
            job.order = self.count
            payload = payload_of(job.loaded)
            item = QueueItem(payload.graph, payload.extra_data)
            self.service._live._sent.put(job.member, job.order, item)
        self.feed.live.put(job)
        self.feed.changed(job)
        return job

    def remove(self, job: LiveJob) -> None:
        self.feed.live.remove(job)
        self.feed.left(job)

    async def end(
        self, prompt_id: str, created: int = 1000, took: int = 5, tell: bool = True, **outputs: Any
    ) -> LiveJob:
        job = new(prompt_id, created_at=created)
        job.order = (await self.repository.insert(stored_of(job), payload_of(job.loaded))).order
        status = {"status_str": "success", "completed": True, "messages": []}
        end = JobEnd("completed", outputs, status, {}, created, created + took)
        await self.recorder.end(job, end)
        if tell:
            self.feed.recorded(job)
        return job

    async def history(self, max_items: int | None = None, offset: int | None = None) -> bytes:
        body = await self.service.history.json(MEMBER, max_items=max_items, offset=offset)
        return body if isinstance(body, bytes) else b"".join([piece async for piece in body])

    async def entry(self, prompt_id: str) -> bytes:
        return await self.service.history.entry_json(MEMBER, prompt_id)

    async def listed(self, query: JobQuery) -> dict[str, Any]:
        return await self.service.list_jobs(MEMBER, query)
