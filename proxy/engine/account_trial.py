"""Finds out whether an account takes jobs again, also while no job waits that could try it."""

from __future__ import annotations

import asyncio
import math

import structlog

from proxy.cloud.errors import CloudError, CloudRefused, CloudUnreachable
from proxy.engine.accounts import Account
from proxy.engine.scheduler import Scheduler
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.translate.errors import WITHOUT_NODES, LocalError

log = structlog.get_logger(__name__)

#: Seconds between two looks at an account, and two trials of one that jobs wait for.
INTERVAL = 1.0
#: Between two trials of one that no job waits for, or whose trouble a person has to mend.
TRIALS = Backoff(5.0, 60.0)
#: An account that fails within so many seconds after a trial is tried less often.
_RELAPSE = 30.0


class AccountTrial:
    """Tries an account that has a trouble which a person mends, or that cannot be reached, and sets
    one aside that says itself that it cannot be used.

    A trial submits nothing: it reads with the key, and where credits are missing whether there are
    more than at the first trial. Where the cloud does not tell its keys what is left, only the next
    job shows that an account has credits again.
    """

    def __init__(self, account: Account, scheduler: Scheduler) -> None:
        self._account = account
        self._scheduler = scheduler
        self._balance: int | None = None
        self._tried_at = self._recovered_at = -math.inf

    async def run(self) -> None:
        """Try while the account takes no jobs, until cancelled."""
        trials, due = 0, 0.0
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()
            if self._account.health.well:
                trials, self._balance = 0, None
                continue
            if trials and clock.monotonic() < due and not self.is_awaited():
                continue
            trials += 1
            due = clock.monotonic() + TRIALS.after(trials)
            if trials == 1:  # it failed a moment ago
                if self._account.health.reason == "no_credits":
                    await self._has_more()
            elif await self.works():
                log.info("account_recovered", account=self._account.name)
                self._recovered_at = clock.monotonic()
                self._scheduler.recovered(self._account.name)
            self._tried_at = clock.monotonic()

    async def look(self) -> None:
        """Set the account aside while it says that it cannot be used."""
        account, why = self._account, self._account.cloud.unusable
        if bool(why) == (account.health.reason == "no_nodes"):
            return
        if why:
            refusal = LocalError(WITHOUT_NODES, why, kind="unavailable")
            self._scheduler.set_aside(account.name, "no_nodes", refusal)
        else:
            self._scheduler.recovered(account.name)
        await account.read_plan()

    def is_awaited(self) -> bool:
        """Return whether the cloud could not be reached, and jobs wait for it, or others have had
        an answer since the last trial."""
        if self._account.health.reason != "unreachable":
            return False
        if clock.monotonic() - self._recovered_at < _RELAPSE:
            return False
        answered = self._account.cloud.contact.answered_at > self._tried_at
        return answered or len(self._scheduler.queue) > 0

    async def works(self) -> bool:
        """Return whether the account takes jobs again, as far as that can be told."""
        match self._account.health.reason:
            case "dead_key":
                return await self._answers()
            case "unreachable":
                return await self._answers(refusals=True)
            case "no_credits":
                return await self._has_more()
        return False

    async def _answers(self, *, refusals: bool = False) -> bool:
        try:
            await self._account.cloud.check_key()
        except CloudUnreachable:
            return False
        except CloudRefused as error:
            return refusals and error.status < 500
        except CloudError:
            return False
        return True

    async def _has_more(self) -> bool:
        left = (await self._account.cloud.account_plan()).balance_cents
        if left is None:
            return False
        if self._balance is None or left <= self._balance:
            self._balance = left
            return False
        return True
