"""All accounts at work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from proxy.engine.accounts import Account
from proxy.engine.localiser import Secrets
from proxy.engine.policy import Policy
from proxy.engine.recorder import JobRecorder
from proxy.engine.recovery import Recovery
from proxy.engine.resources import JobResources
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.worker import AccountWorker
from proxy.runtime.supervisor import Supervisor


class Workers(Mapping[str, AccountWorker]):
    """The workers of all accounts by name.

    `recovery` looks for jobs on all of them; their keys are the `secrets` that no client may see.
    """

    def __init__(
        self,
        accounts: Mapping[str, Account],
        scheduler: Scheduler,
        table: JobTable,
        recorder: JobRecorder,
        resources: JobResources,
        policy: Policy,
    ) -> None:
        for account in accounts.values():
            account.forget()
        self._workers = {
            name: AccountWorker(account, scheduler, table, recorder, resources, policy)
            for name, account in accounts.items()
        }
        self.secrets = Secrets(account.key for account in accounts.values())
        self.recovery = Recovery(self._workers, policy)

    def __getitem__(self, name: str) -> AccountWorker:
        return self._workers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._workers)

    def __len__(self) -> int:
        return len(self._workers)

    async def start(self, supervisor: Supervisor) -> None:
        """Open the feeds of events, and read the jobs and the plans of all accounts."""
        for name, worker in self._workers.items():
            await worker.feed.start()
            supervisor.keep(worker.reconciler.run, f"reconcile {name}")
            supervisor.keep(worker.follow_plan, f"follow the plan of {name}")
            supervisor.keep(worker.trial.run, f"try {name} again")

    async def close(self) -> None:
        """Close the feeds of events."""
        await asyncio.gather(*(worker.feed.close() for worker in self._workers.values()))

    async def use_key(self, name: str, key: str) -> None:
        """Take another key of an account, and show it to nobody."""
        self.secrets.add(key)
        await self._workers[name].use_key(key)
