"""What the jobs room has of each account: its router, its submissions, its readings."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from proxy.accounts.health import Health
from proxy.accounts.slots import Slots
from proxy.jobs import submission
from proxy.jobs.reconcile import Reconciler
from proxy.jobs.request import Policy
from proxy.jobs.router import Router
from proxy.jobs.runner import Runner
from proxy.jobs.submission import Submitter


class Cloud(submission.Cloud, Protocol):
    """What the jobs need of an account's cloud."""

    async def cancel(self, cloud_id: str) -> bool:
        """Cancel a job; false if it had ended."""


class Socket(Protocol):
    """What the jobs need of an account's event socket."""

    @property
    def connected(self) -> bool:
        """Whether it is open."""


class Account(Protocol):
    """An account, as far as the jobs know it; see `proxy.accounts.account`."""

    @property
    def name(self) -> str:
        """Its name, by which records find it again."""

    @property
    def cloud(self) -> Cloud:
        """Its calls."""

    @property
    def socket(self) -> Socket:
        """Its events."""

    @property
    def key(self) -> str:
        """The key that partner nodes are lent."""

    @property
    def slots(self) -> Slots:
        """How many jobs it runs."""

    @property
    def health(self) -> Health:
        """Whether it takes jobs."""

    @property
    def weight(self) -> float:
        """Its share among accounts."""

    def allows(self, member: str) -> bool:
        """Whether the member's jobs may run here."""


class Lane:
    """One account's way through the jobs room.

    `runners` gives all jobs on the cloud, of any account. `opened(name)` waits a little until the
    account's event socket is open, so that no event of a job comes before anybody hears it, and
    says whether it is; it is not waited for again until `socket_opened`.
    """

    def __init__(
        self,
        account: Account,
        runners: Callable[[], Mapping[str, Runner]],
        known: Callable[[str], bool],
        opened: Callable[[str], Awaitable[bool]],
        policy: Policy,
    ) -> None:
        self.account = account
        self.name = account.name
        self.cloud = account.cloud
        self.router = Router(time.monotonic)
        self.submitter = Submitter(
            account.cloud,
            known=known,
            expecting=self.router.submission,
            patience=policy.submit_patience,
        )
        self._runners = runners
        self._opened = opened
        self._worth_waiting = True
        self.reconciler = Reconciler(
            account.cloud,
            self.runners,
            lambda: account.socket.connected,
            connected_wait=policy.connected_wait,
            lost_wait=policy.lost_wait,
            slots=account.slots,
        )

    def runners(self) -> dict[str, Runner]:
        """The account's jobs by cloud id."""
        return {
            cloud_id: runner
            for cloud_id, runner in self._runners().items()
            if runner.job.account == self.name
        }

    def any_running(self) -> bool:
        """Whether a job of the account runs, so that events should come."""
        return any(runner.job.started_at is not None for runner in self.runners().values())

    async def open(self) -> None:
        """Wait a little until events come, if that is worth it."""
        if self._worth_waiting:
            self._worth_waiting = await self._opened(self.name)

    def socket_opened(self) -> None:
        """Events come (again): read what was missed."""
        self._worth_waiting = True
        self.reconciler.read_soon()

    def socket_lost(self) -> None:
        """No events come: read instead."""
        self.router.socket_lost()
        self.reconciler.read_soon()


def by_name(lanes: Iterable[Lane]) -> dict[str, Lane]:
    """The lanes by the names of their accounts."""
    return {lane.name: lane for lane in lanes}
