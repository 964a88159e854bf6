"""One account at work: its events, its submissions and the jobs that are there.

What belongs to one account shares nothing with another but the scheduler and the table of jobs.
"""

from __future__ import annotations

import asyncio

import structlog

from proxy.cloud.errors import CloudError
from proxy.cloud.observer import Observer
from proxy.engine.account_trial import AccountTrial
from proxy.engine.accounts import Account
from proxy.engine.finder import JobFinder
from proxy.engine.live_job import LiveJob
from proxy.engine.policy import Policy
from proxy.engine.preparation import Preparation
from proxy.engine.reconciler import Reconciler
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.router import EventRouter
from proxy.engine.scheduler import Scheduler
from proxy.engine.submitter import Submitter
from proxy.engine.table import JobTable
from proxy.jobs.models import JobState
from proxy.runtime import clock
from proxy.runtime.backoff import jittered
from proxy.runtime.waits import until_set
from proxy.sharing.loop_turns import driver_of

log = structlog.get_logger(__name__)

#: Seconds between two looks at an account's plan, at most.
_PLAN_INTERVAL = 600.0


class AccountWorker:
    """The parts that work for one account."""

    def __init__(
        self,
        account: Account,
        scheduler: Scheduler,
        table: JobTable,
        recorder: JobRecorder,
        resources: JobResources,
        policy: Policy,
    ) -> None:
        self.account = account
        self._term = recorder.term
        self.cloud = account.cloud
        self._jobs = table.on_account(account.name)
        self.router = EventRouter(
            self._jobs, ended=table.ended_ids, placed=scheduler.placed(account.name)
        )
        observer = Observer(
            on_event=self.router.on_event,
            on_frame=self.router.on_frame,
            on_snapshot=self.router.on_snapshot,
            on_up=self._events_come,
            on_down=self._events_lost,
            due=self.any_running,
            driver=driver_of(resources.loop_turns, account.name),
        )
        self.feed = account.cloud.events(observer, policy.timeouts)
        self.finder = JobFinder(
            account.cloud,
            table.cloud_ids,
            table.ended_ids,
            recorder.jobs,
            policy.adoption_timeout,
        )
        self.submitter = Submitter(
            account.cloud,
            self.finder,
            table,
            Preparation(account, recorder, resources, self.feed, policy),
            resources,
            expecting=self.router.submission,
        )
        self._scheduler = scheduler
        self._plan_changed = asyncio.Event()
        self.trial = AccountTrial(account, scheduler)
        self.reconciler = Reconciler(account, scheduler, table, self.feed, policy)

    # --- the account -----------------------------------------------------------------------

    async def use_key(self, key: str) -> None:
        """Take another key for calls and events, and read the jobs with it."""
        self.account.use_key(key)
        await self.feed.use_key(key)
        self.reconciler.read_soon()
        self._plan_changed.set()

    async def follow_plan(self) -> None:
        """Read what the account tells of its plan, now, after another key and once in a while."""
        while True:
            self._plan_changed.clear()
            if await self.account.read_plan():
                self._scheduler.changed()
            await until_set(self._plan_changed, jittered(_PLAN_INTERVAL))

    def any_running(self) -> bool:
        """Return whether a job runs, so that events should come."""
        return any(job.state is JobState.RUNNING for job in self._jobs.values())

    def _events_come(self) -> None:
        """Read what was missed: events come (again)."""
        self.cloud.contact.answered(clock.monotonic())
        self.reconciler.read_soon()

    def _events_lost(self) -> None:
        """Read instead of waiting for events."""
        self.cloud.contact.lost(clock.monotonic())
        self.router.events_lost()
        self.reconciler.read_soon()

    # --- jobs ------------------------------------------------------------------------------

    def follow(self, job: LiveJob) -> None:
        """Observe a job; its follower gets what has happened and what happens from now on."""
        self.router.catch_up(job)
        self.feed.follow(job.cloud_id, job.loaded.cloud_graph)

    def leave(self, cloud_id: str) -> None:
        """Stop observing a job."""
        self.feed.leave(cloud_id)
        self.router.forget(cloud_id)

    async def cancel(self, cloud_id: str) -> bool:
        """Ask the cloud to end a job, while the term lasts; return whether it will. Raises
        `CloudError` and `FencedError`."""
        self._term.check()
        return await self.cloud.cancel(cloud_id)

    async def abandon(self, cloud_id: str) -> None:
        """Have the cloud end a job, whatever becomes of that: the job goes on to its end, and keeps
        no slot beyond it."""
        try:
            await self.cloud.cancel(cloud_id)
        except CloudError as error:
            log.warning("cancel_failed", cloud_job=cloud_id, error=str(error))
        except Exception:
            log.exception("cancel_crashed", cloud_job=cloud_id)
