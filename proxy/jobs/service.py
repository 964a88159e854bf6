"""Every member's jobs: taken in, followed to their end, kept, shown and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from proxy.jobs import lane, overview
from proxy.jobs.cancelling import Canceller
from proxy.jobs.clients import Clients, interrupted
from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.intake import Admit, Check, Intake
from proxy.jobs.keeper import Keeper
from proxy.jobs.lane import Account, Lane
from proxy.jobs.listing import JobQuery
from proxy.jobs.observer import Observer, Observers
from proxy.jobs.overview import JobView
from proxy.jobs.request import Accepted, Backlog, Policy, Request
from proxy.jobs.sending import Files, KnownClass
from proxy.members.member import Member
from proxy.store.base import Store
from proxy.translate.messages import status


class Jobs:
    """The jobs of every member on all `accounts`; `hub` knows who listens, `clients` who did.

    `known_class` gives the catalogue's word on a node class, or `None` while it has none.
    `opened(name)` waits a little until the account's event socket is open, so that no event of a
    job comes before anybody hears it, and says whether it is. `member` gives weight and limits of
    a member; call `members_changed` when they are others. `admit` is asked before anything else
    whether a member may submit now, `check` whether the graph can run. `observers` are told what
    becomes of jobs.
    """

    def __init__(
        self,
        *,
        store: Store,
        accounts: Iterable[Account],
        files: Files,
        known_class: KnownClass,
        opened: Callable[[str], Awaitable[bool]],
        policy: Policy,
        member: Callable[[str], Member] = Member,
        admit: Admit | None = None,
        check: Check | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        accounts = list(accounts)
        self._lanes = lane.by_name(
            Lane(
                account,
                lambda: self._keeper.runners,
                lambda cloud_id: self._keeper.knows(cloud_id),
                opened,
                policy,
            )
            for account in accounts
        )
        self._keeper = Keeper(
            store=store,
            lanes=self._lanes,
            names=files,
            secrets=[account.key for account in accounts],
            history_size=policy.history_size,
            waits=policy.waits,
            observers=Observers(observers),
        )
        self._dispatcher = Dispatcher(self._keeper, self._lanes, files, known_class, member, policy)
        self.clients = Clients(policy.client_parallelism)
        self._intake = Intake(
            self._keeper,
            self._dispatcher,
            files,
            known_class,
            admit,
            check,
            lambda name, client_id: self.clients.one_at_a_time(member(name), client_id),
        )
        self._canceller = Canceller(self._keeper, self._dispatcher, self._lanes)
        self.hub = self._keeper.hub
        self._ledgers = self._keeper.ledgers
        self._status_interval = policy.status_interval
        self._tasks: list[asyncio.Task[None]] = []

    # --- life of the room ------------------------------------------------------------------

    async def start(self) -> None:
        """Read what was kept, follow again what has not ended, and go on with the queue."""
        records = await self._keeper.load()
        await self._keeper.load_turns(self._dispatcher.places.restore)
        self._intake.restore(records)
        self._dispatcher.restore(records)
        self._tasks = [asyncio.create_task(self._keep_alive(), name="status heartbeat")]
        for one in self._lanes.values():
            self._tasks.append(
                asyncio.create_task(one.reconciler.run(), name=f"reconcile {one.name}")
            )
            if one.runners():
                one.reconciler.read_soon()
        self._dispatcher.pump()

    async def close(self) -> None:
        """Stop following; the jobs go on on the cloud."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._dispatcher.close()
        await self._keeper.close()

    async def _keep_alive(self) -> None:
        """A `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self._status_interval)
            for member, ledger in list(self._ledgers.items()):
                news = status(self.queue_remaining(member))
                for client_id in {job.client_id for job in ledger.live.values()}:
                    self.hub.tell(member, client_id, news)

    # --- what belongs to one account -------------------------------------------------------

    def on_event(self, account: str, type_: str, data: dict[str, Any]) -> None:
        """Take a text message of the account's event socket."""
        self._lanes[account].router.on_event(type_, data)

    def on_frame(self, account: str, frame: bytes) -> None:
        """Take a binary message of the account's event socket."""
        self._lanes[account].router.on_frame(frame)

    def hide(self, key: str) -> None:
        """A key is about to be used: it is to be shown to nobody."""
        self._keeper.hide(key)

    def key_renewed(self, account: str) -> None:
        """The account has another key: read its jobs with it, and let jobs go again."""
        one = self._lanes[account]
        one.account.health.renewed()
        one.reconciler.read_soon()
        self._dispatcher.pump()

    def any_running(self, account: str) -> bool:
        """Whether a job runs on the account, so that events should come."""
        return self._lanes[account].any_running()

    def socket_opened(self, account: str) -> None:
        """Events of the account come (again): read what was missed."""
        self._lanes[account].socket_opened()

    def socket_lost(self, account: str) -> None:
        """No events of the account come: read instead."""
        self._lanes[account].socket_lost()

    def members_changed(self) -> None:
        """Weights or limits are others: look whether a job may go now."""
        self._dispatcher.pump()

    # --- taking a job in -------------------------------------------------------------------

    async def submit(self, member: str, request: Request) -> Accepted:
        """Take a job in and follow it; its messages wait for `release`. Raises `LocalError`."""
        return await self._intake.submit(member, request)

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        self._intake.release(member, prompt_id)

    # --- what clients see ------------------------------------------------------------------

    def queue_remaining(self, member: str) -> int:
        """The member's jobs that wait or run, and others' that go before its last one."""
        return self._dispatcher.remaining(member)

    def queue_json(self, member: str) -> bytes:
        """The body of `GET /queue`."""
        return self._ledgers[member].queue_json()

    def history_json(self, member: str, *, max_items: int | None, offset: int | None) -> bytes:
        """The body of `GET /history`."""
        return self._ledgers[member].history_json(max_items, offset)

    def history_entry_json(self, member: str, prompt_id: str) -> bytes:
        """The body of `GET /history/{id}`."""
        return self._ledgers[member].history_entry_json(prompt_id)

    def list_jobs(self, member: str, query: JobQuery) -> dict[str, Any]:
        """The answer of `GET /api/jobs`."""
        return self._ledgers[member].list_jobs(query)

    def job(self, member: str, prompt_id: str) -> dict[str, Any] | None:
        """The answer of `GET /api/jobs/{id}`, or `None`.

        A job that waits because no account takes it has `queue_reason` (see `JobView`) and, where
        the cloud said something, `queue_message`.
        """
        found = self._ledgers[member].job(prompt_id)
        record = self._ledgers[member].live.get(prompt_id)
        blocked = None if record is None else self._dispatcher.places.blocked(record)
        if found is not None and blocked is not None:
            reason, message = blocked
            found["queue_reason"] = reason
            if message is not None:
                found["queue_message"] = message
        return found

    # --- what admins see -------------------------------------------------------------------

    def overview(self, member: str | None = None) -> list[JobView]:
        """All live jobs, or those of one member: what runs first, what waits in order."""
        views = overview.of(self._keeper, self._dispatcher)
        return [view for view in views if member is None or view.member == member]

    def failures(self) -> list[tuple[str, str]]:
        """Member and id of all failed jobs in the history, in the order in which they ended."""
        ended = [job for ledger in self._ledgers.values() for job in ledger.ended.values()]
        failed = [job for job in ended if job.outcome == "failed"]
        failed.sort(key=lambda job: job.sequence)
        return [(job.member, job.prompt_id) for job in failed]

    def ended_summary(self, member: str, prompt_id: str) -> dict[str, Any] | None:
        """An ended job as `GET /api/jobs` lists it, or `None`."""
        ledger = self._ledgers.get(member)
        job = None if ledger is None else ledger.ended.get(prompt_id)
        return None if job is None else job.summary

    def backlog(self, member: str) -> Backlog:
        """How many jobs of the member wait and how many are on the cloud."""
        return self._intake.backlog(member)

    def slots_used(self, account: str) -> int:
        """How many jobs are on the account or on their way."""
        return self._dispatcher.places.used(account)

    # --- what clients end ------------------------------------------------------------------

    async def delete_pending(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Take waiting jobs out of the queue; they leave no trace, as in ComfyUI."""
        live = self._ledgers[member].live
        wanted = dict.fromkeys(prompt_ids)
        await self._canceller.cancel(
            [live[one] for one in wanted if one in live and live[one].started_at is None]
        )

    async def clear_pending(self, member: str) -> None:
        """Take all of the member's waiting jobs out of the queue."""
        await self._canceller.cancel(self._ledgers[member].pending())

    async def interrupt(
        self,
        member: str,
        prompt_id: str | None,
        *,
        submitter: str = "",
        client_id: str | None = None,
    ) -> None:
        """Stop what runs: the job named, if it runs, or else what the caller has running.

        See `proxy.jobs.clients.interrupted` for `submitter` and `client_id`.
        """
        running = self._ledgers[member].running()
        if prompt_id is None:
            running = interrupted(running, submitter, client_id)
        else:
            running = [job for job in running if job.prompt_id == prompt_id]
        await self._canceller.cancel(running)

    async def cancel(self, member: str, prompt_id: str) -> bool:
        """Cancel a waiting or running job; false if there is none to cancel."""
        job = self._ledgers[member].live.get(prompt_id)
        return job is not None and await self._canceller.cancel([job])

    async def delete_history(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Forget ended jobs; nothing is deleted on the cloud."""
        await self._keeper.forget(member, list(prompt_ids))

    async def clear_history(self, member: str) -> None:
        """Forget all ended jobs of the member."""
        await self.delete_history(member, list(self._ledgers[member].ended))
