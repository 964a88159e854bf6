"""Tells webhooks of notices of budgets that are near or reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from proxy.runtime.waits import until_set
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.database import FencedError, StorageError
from proxy.storage.leases import Fence
from proxy.webhooks.messages import budget_message
from proxy.webhooks.outbox import Outbox

log = structlog.get_logger(__name__)

#: Seconds after which it looks although it heard of nothing: a notice whose commit had no answer
#: may be stored.
INTERVAL = 30.0
#: Seconds before it looks again when the storage refuses.
_AGAIN = 1.0


@dataclass(kw_only=True, eq=False, repr=False)
class BudgetWatch:
    """Makes messages of notices, for the engine that has the `fence`."""

    repository: BudgetNoticeRepository
    outbox: Outbox
    fence: Fence

    async def run(self) -> None:
        """Send new notices, until cancelled."""
        while True:
            self.outbox.budgets.clear()
            try:
                if notices := await self.repository.untold():
                    await self.repository.tell(notices, budget_message, fence=self.fence)
                    self.outbox.news.set()
            except FencedError:
                await asyncio.Event().wait()  # another process leads; this one stops
            except StorageError as error:
                log.warning("webhooks_save_failed", error=str(error))
                await asyncio.sleep(_AGAIN)
                continue
            await until_set(self.outbox.budgets, INTERVAL)
