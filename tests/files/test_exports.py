"""An export shows that somebody works at it, also while it waits for its turn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from waiting import PATIENCE

from proxy.files import exports
from proxy.files.exports import Exports
from proxy.storage.assets import AssetRepository
from proxy.storage.database import Database
from proxy.storage.temporary import STALE, ExportRepository
from proxy.supervisor import Supervisor
from proxy.translate.asset_requests import ExportRequest


async def test_an_export_that_waits_is_not_taken_for_one_that_stopped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BEAT", 0.001)
    supervisor, repository, now = Supervisor(), ExportRepository(database), [1.0]
    files: Any = None
    begun = Exports(
        AssetRepository(database),
        files,
        supervisor,
        repository,
        lambda *_: None,
        lambda: now[0],
    )
    for _ in range(exports.AT_ONCE):
        await begun._turn.acquire()
    request = ExportRequest(asset_ids=["11111111-2222-4333-8444-555555555555"])
    id_ = await begun.begin("anna", request)
    now[0] += 2 * STALE / 1000
    async with asyncio.timeout(PATIENCE):
        while (await begun.task("anna", id_))["status"] == "failed":  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert await begun.begin("anna", request) == id_
    begun._turn.release()
    async with asyncio.timeout(PATIENCE):
        while (await begun.task("anna", id_))["status"] != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0)
    await supervisor.close()
