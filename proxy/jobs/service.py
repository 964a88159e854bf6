"""What clients and admins see of jobs, and how they cancel them.

`GET /api/jobs` and `GET /api/jobs/{id}` are in local form, from the proxy's own records.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import structlog
from msgspec import Struct

from proxy.jobs.engine_calls import OverviewAnswered, RunAnswered
from proxy.jobs.history import NO_ENTRY
from proxy.jobs.models import ENDS, AccountView, Job, JobRecord
from proxy.jobs.submission import SubmissionService
from proxy.jobs.subscribers import Subscriber
from proxy.jobs.views import divided, interruptible, of_queue
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey
from proxy.storage.spending import Spending
from proxy.translate import codec
from proxy.translate.errors import LocalError
from proxy.translate.events import Event

log = structlog.get_logger(__name__)

#: Upper bound for numbers of entries: databases take no larger integers.
_MAX_ITEMS = 2**53

#: Seconds to wait for the history entry of a job that has only to be recorded as ended.
HISTORY_TIMEOUT = 2.0


class JobService:
    """The jobs of all members, as the api uses them.

    `submissions` takes jobs in, and its `timeout` bounds the wait for a cancellation too. Their
    `feed` knows who listens, what lives and what has ended.
    """

    def __init__(self, submissions: SubmissionService[Any]) -> None:
        self.submissions = submissions
        self.feed = submissions.feed
        self.subscribers = self.feed.subscribers
        self.history = self.feed.history
        self._live = self.feed.live
        self._engine = submissions.engine
        self._repository = submissions.repository

    # --- the queue -------------------------------------------------------------------------

    async def spending(self, day: str, member: str | None = None) -> dict[str, Spending]:
        """Return what all members, or one, have spent on a day (UTC) and in its month. Raises
        `StorageError`."""
        return await self._repository.spending(day, member)

    def queue_remaining(self, member: str) -> int:
        """Return how many jobs of the member wait or run, and of others before its last one."""
        return self._live.of(member).remaining

    async def queue_json(self, member: str) -> bytes | AsyncIterator[bytes]:
        """Return the body of `GET /queue`, a large one in pieces. Raises `StorageError`, and
        `MemoryLimitError`."""
        return await self._live.queue_json(member)

    async def list_jobs(self, member: str, query: JobQuery) -> dict[str, Any]:
        """Return the answer of `GET /api/jobs`. Raises `StorageError`."""
        ended, total = await self._repository.history.summaries(
            member,
            states=ended_states(query.statuses),
            workflow_id=query.workflow_id,
            by="duration" if query.sort_by == "execution_duration" else "created",
            descending=query.descending,
            limit=None if query.limit is None else min(query.offset + query.limit, _MAX_ITEMS),
        )
        found = list(map(codec.loads, ended))
        known = {job["id"] for job in found}
        live = self._live.of(member).jobs.values()
        queued = [
            of_queue(job, running=running)
            for jobs, running in zip(divided(live), (True, False), strict=True)
            for job in jobs
            if job.prompt_id not in known and query.workflow_id in (None, job.workflow_id)
        ]
        if query.statuses is not None:
            queued = [job for job in queued if job["status"] in query.statuses]
        return select([*queued, *found], query, unread=total - len(found))

    async def history_json(self, member: str, prompt_id: str) -> bytes:
        """Return the body of `GET /history/{id}`. Raises `StorageError`.

        Programs ask as soon as they have the last output, when a local server writes the entry.
        Here Comfy Cloud has the last word on the end, so the answer waits for it, at most
        `HISTORY_TIMEOUT` seconds.
        """
        cached = self.history.cached_entry_json(member, prompt_id)
        if cached is not None:
            return cached
        with self.history.changes(member, prompt_id) as changed:
            body = await self.history.entry_json(member, prompt_id)
            if body != NO_ENTRY:
                return body
            job = self._live.of(member).jobs.get(prompt_id)
            if not changed.done():
                if job is None or not job.finishing:
                    return body
                await asyncio.wait([changed], timeout=HISTORY_TIMEOUT)
        return await self.history.entry_json(member, prompt_id)

    async def job(self, member: str, prompt_id: str) -> JobRecord | None:
        """Return a job, or `None`. Raises `StorageError`.

        One that waits because no account takes it has `queue_reason` (see `Job`) and,
        where the cloud gave a message, `queue_message`.
        """
        entry = await self.history.entry(member, prompt_id)
        job = self._live.unless_cancelled(JobKey(member, prompt_id))
        if entry is None and job is None:  # it may have ended meanwhile
            entry = await self.history.entry(member, prompt_id)
        if entry is not None:
            return JobRecord(
                entry.graph, entry.extra_data, summary=entry.summary, result=entry.result
            )
        if job is None or (sent := await self._live.sent(job)) is None:
            return None
        running, _ = divided({**self._live.of(member).jobs, prompt_id: job}.values())
        listed = of_queue(job, running=job in running)
        if job.reason is not None:
            listed["queue_reason"] = job.reason
            if job.message is not None:
                listed["queue_message"] = job.message
        return JobRecord(sent.graph, sent.extra_data, listed)

    # --- what admins see -------------------------------------------------------------------

    def live(self) -> list[Job]:
        """Return all jobs that are in the queue, without their positions."""
        return self._live.shown()

    def accounts(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return self._engine.account_views()

    async def stop(self) -> None:
        """Change no job any more, before the sockets that hear of them close."""
        await self._engine.stop()

    async def release_held(self) -> int:
        """Let the jobs of a restored backup that wait be sent; return how many there are. Raises
        `StorageError`."""
        return await self._repository.release_held()

    def overview(self, member: str | None = None) -> OverviewAnswered:
        """Return the live jobs of all or of one member with their positions, and the accounts.

        Of many that wait the first are there.
        """
        return self._engine.overview(member)

    def run(self, key: JobKey, *, with_preview: bool = False) -> RunAnswered:
        """Return how far a running job is, and `with_preview` its last preview."""
        return self._engine.run(key, with_preview=with_preview)

    # --- sockets ---------------------------------------------------------------------------

    def attach(
        self,
        member: str,
        client_id: str,
        subscriber: Subscriber,
        greet: Callable[[], None],
        *,
        receives_all: bool,
        age: float,
    ) -> None:
        """Let `subscriber` hear what concerns `client_id` (see `Subscribers.attach`); after the
        greeting comes the node that runs now for this client, if one does."""
        hears = self.subscribers.attach(
            member, client_id, subscriber, greet, receives_all=receives_all, age=age
        )
        node = self._engine.running_node(member, client_id)
        if hears and node is not None:
            self.subscribers.send_to(member, client_id, Event("executing", {"node": node}))

    # --- what clients end ------------------------------------------------------------------

    async def delete_pending(self, member: str, prompt_ids: list[str] | None) -> None:
        """Take waiting jobs out of the queue, all without `prompt_ids`; they leave no trace, as in
        ComfyUI."""
        _, pending = divided(self._live.of(member).jobs.values())
        if prompt_ids is not None:
            wanted = set(prompt_ids)
            pending = [job for job in pending if job.prompt_id in wanted]
        await self._cancel([job.key for job in pending], cleared=prompt_ids is None)

    async def interrupt(
        self,
        member: str,
        prompt_id: str | None,
        *,
        submitter: str = "",
        client_id: str | None = None,
    ) -> None:
        """Stop what runs or would run on a local server: the job named, or else the caller's own.

        Those are what the `client_id` has, or else the `submitter` (see `interrupted`).
        """
        live = [*self._live.of(member).jobs.values()]
        if prompt_id is not None:  # ignored for one that waits, as on a local server
            running, _ = divided(live)
            jobs = [job for job in running if job.prompt_id == prompt_id]
        elif client_id is not None:
            jobs = interruptible(live, attrgetter("client_id"))
            jobs = [job for job in jobs if job.client_id == client_id]
        else:
            jobs = interruptible(live, attrgetter("submitter"))
            others = [job for job in live if job not in jobs]
            jobs = interrupted(jobs, others, submitter)
        await self._cancel([job.key for job in jobs], interrupt=True)

    async def cancel(self, member: str, prompt_id: str) -> bool:
        """Cancel a waiting or running job; false if there is none to cancel."""
        job = self._live.unless_cancelled(JobKey(member, prompt_id))
        running, _ = divided(self._live.of(member).jobs.values())
        return job is not None and await self._cancel([job.key], interrupt=job in running)

    async def cancelled_of(self, member: str, prompt_ids: Iterable[str]) -> list[str]:
        """Cancel jobs, and return those that could be. Raises `LocalError`."""
        wanted = dict.fromkeys(prompt_ids)
        return [id_ for id_ in wanted if await self.cancel(member, id_)]

    async def _cancel(
        self, keys: list[JobKey], *, interrupt: bool = False, cleared: bool = False
    ) -> bool:
        """Have jobs cancelled; return whether any was by this. Raises `LocalError`.

        With `interrupt` they end as interrupted runs, also where they have not begun.
        """
        if not keys:
            return False
        cancelling = self._engine.cancel(keys, interrupt=interrupt, cleared=cleared)
        await asyncio.wait([cancelling], timeout=self.submissions.timeout)
        answer = cancelling.result() if cancelling.done() else None
        if isinstance(answer, LocalError):
            raise answer
        if answer is None or isinstance(answer, StorageError):
            log.warning("cancel_failed", error=str(answer or "no answer yet"))
            raise LocalError(
                "cancel_unanswered",
                "The cancellation is not carried out yet; check the queue later.",
                kind="unavailable",
                retry_after=5.0,
            )
        return answer


def interrupted(
    running: Sequence[Job],
    waiting: Iterable[Job],
    submitter: str,
) -> list[Job]:
    """Return the jobs that an interrupt without an id means, of a member's running ones.

    Those that the same program has submitted, which are none while its own are `waiting`; for a
    program without jobs the one that runs longest. `submitter` is what the caller's own jobs have
    as theirs.
    """
    own = [job for job in running if submitter and job.submitter == submitter]
    if submitter and not own and any(job.submitter == submitter for job in waiting):
        return []
    return own or sorted(running, key=lambda job: (job.started_at or 0, job.order))[:1]


# --- lists of jobs -------------------------------------------------------------------------

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")


class JobQuery(Struct, frozen=True):
    """The parameters of `GET /api/jobs`; `statuses` and `workflow_id` of `None` mean all."""

    statuses: frozenset[str] | None = None
    workflow_id: str | None = None
    sort_by: str = "created_at"
    descending: bool = True
    limit: int | None = None
    offset: int = 0


def ended_states(statuses: frozenset[str] | None) -> set[str]:
    """Return the stored states of ended jobs that have one of the statuses."""
    return {
        state.value for outcome, state in ENDS.items() if statuses is None or outcome in statuses
    }


def select(jobs: list[dict[str, Any]], query: JobQuery, *, unread: int = 0) -> dict[str, Any]:
    """Return the requested page of `jobs`: `{"jobs": […], "pagination": {…}}`.

    `unread` more jobs come after all of these.
    """
    order = _duration if query.sort_by == "execution_duration" else _created
    stop = None if query.limit is None else query.offset + query.limit
    page = sorted(jobs, key=order, reverse=query.descending)[query.offset : stop]
    total = len(jobs) + unread
    return {
        "jobs": page,
        "pagination": {
            "offset": query.offset,
            "limit": query.limit,
            "total": total,
            "has_more": query.offset + len(page) < total,
        },
    }


def _created(job: dict[str, Any]) -> int:
    return int(job["create_time"])


def _duration(job: dict[str, Any]) -> int:
    return int(job.get("execution_end_time", 0)) - int(job.get("execution_start_time", 0))
