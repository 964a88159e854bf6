"""An export shows that somebody works at it, also while it waits for its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from stopped_clock import stopped
from waiting import TIMEOUT

from proxy.files import exports
from proxy.files.exports import Exports
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.storage.assets import AssetRepository
from proxy.storage.database import Database
from proxy.storage.temporary import STALE, ExportRepository
from proxy.translate.asset_requests import ExportRequest
from proxy.translate.assets import AssetError
from proxy.translate.errors import LocalError


def exports_of(
    database: Database,
    supervisor: Supervisor,
    *,
    repository: ExportRepository | None = None,
    tell: Callable[..., object] = lambda *_: None,
    budget: MemoryBudget | None = None,
) -> Exports:
    """The exports of a server without files."""
    files: Any = None
    return Exports(
        AssetRepository(database),
        files,
        supervisor,
        repository or ExportRepository(database),
        lambda member, event: tell(member, event.type, event.data),
        budget or MemoryBudget(1_000_000),
    )


async def occupied(made: Exports) -> AsyncExitStack:
    """Take all turns for another member; return what gives them back."""
    turns = AsyncExitStack()
    for _ in range(exports.MAX_CONCURRENT):
        await turns.enter_async_context(made._turns.hold("zoe"))
    return turns


async def test_an_export_that_waits_is_not_taken_for_one_that_stopped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BEAT", 0.001)
    clock = stopped(monkeypatch, 1.0)
    supervisor, repository = Supervisor(), ExportRepository(database)
    begun = exports_of(database, supervisor, repository=repository)
    others = await occupied(begun)
    request = ExportRequest(asset_ids=["11111111-2222-4333-8444-555555555555"])
    id_ = await begun.begin("anna", request)
    clock.at += 2 * STALE / 1000
    async with asyncio.timeout(TIMEOUT):
        while (await begun.task("anna", id_))["status"] == "failed":  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert await begun.begin("anna", request) == id_
    await others.aclose()
    async with asyncio.timeout(TIMEOUT):
        while (await begun.task("anna", id_))["status"] != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0)
    await supervisor.close()


async def test_a_member_has_a_bounded_number_of_exports_under_way(database: Database) -> None:
    supervisor, budget = Supervisor(), MemoryBudget(1_000_000)
    begun = exports_of(database, supervisor, budget=budget)
    others = await occupied(begun)
    ids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(exports.MAX_UNFINISHED + 1)]
    made = [await begun.begin("anna", ExportRequest(asset_ids=[id_])) for id_ in ids[:-1]]
    assert budget.held()["export"] > 0
    with pytest.raises(LocalError) as refused:
        await begun.begin("anna", ExportRequest(asset_ids=[ids[-1]]))
    assert (refused.value.kind, refused.value.type) == ("rate_limited", "too_many_exports")
    await begun.begin("ben", ExportRequest(asset_ids=[ids[-1]]))
    await others.aclose()
    async with asyncio.timeout(TIMEOUT):
        while (await begun.task("anna", made[-1]))["status"] != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0)
        while budget.held()["export"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await begun.begin("anna", ExportRequest(asset_ids=[ids[-1]]))
    await supervisor.close()


async def test_an_export_that_waits_can_be_cancelled(database: Database) -> None:
    supervisor, messages = Supervisor(), asyncio.Queue[str]()
    begun = exports_of(
        database, supervisor, tell=lambda member, event, data: messages.put_nowait(data["status"])
    )
    others = await occupied(begun)
    request = ExportRequest(asset_ids=["11111111-2222-4333-8444-555555555555"])
    id_ = await begun.begin("anna", request)
    with pytest.raises(AssetError):
        await begun.cancel("ben", id_)
    await begun.cancel("anna", id_)
    task = await begun.task("anna", id_)
    assert (task["status"], task["result"]["error"]) == ("failed", "The export was cancelled.")
    with pytest.raises(AssetError) as refused:
        await begun.cancel("anna", id_)
    assert refused.value.kind == "conflict"
    again = await begun.begin("anna", request)
    assert again != id_
    await others.aclose()
    async with asyncio.timeout(TIMEOUT):
        heard = [await messages.get() for _ in range(3)]
    assert heard == ["failed", "running", "failed"]  # nothing of the second could be exported
    assert (await begun.task("anna", again))["status"] == "completed"
    assert (await begun.task("anna", id_))["status"] == "failed"
    await supervisor.close()


class CancelledElsewhere(ExportRepository):
    """Where another replica cancels an export just before its next status is written."""

    status = ""

    async def update(self, member: str, id_: str, now: int, **values: Any) -> bool:
        if values.get("status") == self.status:
            result = b'{"error": "The export was cancelled."}'
            await super().update(member, id_, now, status="failed", ended_at=now, result=result)
        return await super().update(member, id_, now, **values)


@pytest.mark.parametrize("status", ["running", "completed"])
async def test_an_export_that_is_cancelled_at_the_last_moment_stays_cancelled(
    database: Database, status: str
) -> None:
    supervisor, repository, messages = Supervisor(), CancelledElsewhere(database), []
    repository.status = status
    begun = exports_of(
        database,
        supervisor,
        repository=repository,
        tell=lambda member, event, data: messages.append(data["status"]),
    )
    request = ExportRequest(asset_ids=["11111111-2222-4333-8444-555555555555"])
    id_ = await begun.begin("anna", request)
    await supervisor.finish()
    task = await begun.task("anna", id_)
    assert (task["status"], task["result"]["error"]) == ("failed", "The export was cancelled.")
    assert messages == ([] if status == "running" else ["running"])
    with pytest.raises(AssetError) as refused:
        await begun.cancel("anna", id_)
    assert refused.value.kind == "conflict"
    await supervisor.close()
