"""A write whose outcome is unknown is made again: it changes nothing the second time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, event, select
from storage.asset_records import FILE, HASH, MADE
from storage.mute import Mute
from storage.samples import PAYLOAD, ended, job

from proxy.files.service import _record_of
from proxy.storage.budget_notices import BudgetNotice, BudgetNoticeRepository
from proxy.storage.costs import CostRow
from proxy.storage.database import Database, OutcomeUnknownError
from proxy.storage.files import FileRepository
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.leases import ENGINE, Batch, Fence, LeaseRepository, is_first
from proxy.storage.members import MemberRepository, StoredToken
from proxy.storage.missing_outputs import MissingOutput
from proxy.storage.run_times import RunTimeRepository, RunTimeRow
from proxy.storage.shares import Share, Shares
from proxy.storage.spending import Spending
from proxy.storage.tables import leases, metadata
from proxy.storage.usage import (
    FACT,
    AuditRow,
    Observation,
    ObservationRepository,
    UsageRepository,
    UsageRow,
    add_audit,
)
from proxy.storage.webhooks import GATEWAY, StoredWebhook, WebhookMessage, WebhookRepository

DAY = "2026-01-01"
COUNTED = UsageRow(DAY, "anna", submitted=1, bytes_up=5)
TAKEN_BACK = UsageRow(DAY, "anna", submitted=-1, withdrawn=1)
SHARES = Shares(3.0, {"anna": Share(4.0, 2.0)}, {"main": 2})
MESSAGE = WebhookMessage("m", "job.completed", "anna", b"{}", 1)
BATCH = Batch("usage 1", 1)


class Allowed:
    """A decision on the job that allows it."""

    day, estimate = DAY, 7

    def check(self, spending: Spending) -> None:
        pass


class Room:
    """A database with a live job and an endpoint of its member, under the lease of an engine."""

    def __init__(self, database: Mute, fence: Fence, job: StoredJob) -> None:
        self.database, self.fence, self.job = database, fence, job
        self.jobs = JobRepository(database)
        self.webhooks = WebhookRepository(database)
        self.files = FileRepository(database)

    @property
    def also(self) -> EngineWrite:
        """What comes with writes of jobs."""
        costs = [CostRow(DAY, "anna", "main", "", "reported", 5)]
        return EngineWrite(self.fence, [COUNTED], costs, SHARES, [MESSAGE])

    async def update(self) -> None:
        also = EngineWrite(self.fence, shares=SHARES, messages=[MESSAGE])
        fields = {"state": "submitted", "cloud_id": "c", "cancel_requested": True}
        await self.jobs.update([(self.job.order, {**fields, "interrupted": False})], also)

    async def discard(self) -> None:
        usage = {self.job.order: TAKEN_BACK}
        await self.jobs.discard([self.job.order], EngineWrite(self.fence), usage=usage)

    async def finish(self) -> None:
        await self.jobs.finish(ended(self.job), self.also, keep=1, budgets=lambda _: [NEAR])


NEAR = BudgetNotice("anna", "credits_per_day", 100, "near", DAY, 80, refused=False, at=1000)
UNTOLD = replace(NEAR, began="2025-12-31")
TOKEN = StoredToken("t", "anna", "digest", "laptop", 1, None)
ANOMALY = Observation("main", "field", "new", b"{}", 2, 1, 2)
MEASURED = RunTimeRow("class", "K", b"1.5", 1)

#: What the recorder, what else the engine has, and what is written behind repeat.
REPEATED: dict[str, Callable[[Room], Awaitable[Any]]] = {
    "the states of jobs": Room.update,
    "jobs that are taken out": Room.discard,
    "the end of a job": Room.finish,
    "what a job may cost": lambda room: room.jobs.claim(
        "anna", room.job.order, "submitting", Allowed(), 70, EngineWrite(room.fence)
    ),
    "an estimate": lambda room: room.jobs.reestimate("anna", "shape", 9),
    "a withdrawal": lambda room: room.jobs.withdraw(room.job.order, usage=[TAKEN_BACK]),
    "usage": lambda room: UsageRepository(room.database).add([COUNTED], BATCH),
    "anomalies": lambda room: ObservationRepository(room.database).add(
        [ANOMALY, replace(ANOMALY, kind=FACT)], BATCH
    ),
    "the audit record": lambda room: room.database.write(
        partial(add_audit, entries=[AuditRow(1, "sign_in", "anna", b"{}")], batch=BATCH)
    ),
    "run times": lambda room: RunTimeRepository(room.database).put(
        [MEASURED], forgotten=[("job", "K")]
    ),
    "troubles of accounts": lambda room: room.webhooks.send_account_messages(
        {}, {"main": "no_credits"}, [replace(MESSAGE, member=GATEWAY)], fence=room.fence
    ),
    "notices of budgets": lambda room: BudgetNoticeRepository(room.database).send(
        [UNTOLD], lambda _: MESSAGE, fence=room.fence
    ),
    "a notice": lambda room: BudgetNoticeRepository(room.database).add(NEAR),
    "uses of tokens": lambda room: MemberRepository(room.database).put_uses({"t": (5, "::1")}),
    "hashes of outputs": lambda room: room.files.write(
        lambda unit: unit.assets.learn("anna", MADE.place, HASH, 5)
    ),
    "missing outputs": lambda room: room.files.write(
        lambda unit: unit.missing.add([MissingOutput("anna", "a.png", 5)])
    ),
    "assets of files": lambda room: room.files.add_missing_assets("anna", _record_of),
}


@pytest.fixture
async def room(database: Database) -> Room:
    mute = Mute(database)
    lease = await LeaseRepository(mute).acquire(ENGINE, "one", 60)
    assert lease is not None
    stored = await JobRepository(mute).insert(job(state="received", shape="shape"), PAYLOAD)
    room = Room(mute, lease.fence, stored)
    await room.webhooks.add(
        StoredWebhook("w", "anna", "http://h/", b'["job.completed"]', b"s", 1), limit=9
    )
    await room.files.write(lambda unit: unit.put([FILE]))
    await room.files.write(lambda unit: unit.assets.add(MADE))
    await BudgetNoticeRepository(database).add(UNTOLD)
    await MemberRepository(database).change(None, tokens=[TOKEN])
    return room


async def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All that is stored, but for the times of leases."""

    def work(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
        found = {}
        for table in metadata.sorted_tables:
            columns = [column for column in table.c if column is not leases.c.expires]
            found[table.name] = sorted(map(tuple, connection.execute(select(*columns))), key=repr)
        return found

    return await database.read(work)


@pytest.mark.parametrize("name", REPEATED)
async def test_the_second_time_changes_nothing(room: Room, name: str) -> None:
    before = await rows(room.database)
    room.database.is_mute = True
    with pytest.raises(OutcomeUnknownError):
        await REPEATED[name](room)
    room.database.is_mute = False
    once = await rows(room.database)
    assert once != before
    await REPEATED[name](room)
    assert await rows(room.database) == once


async def test_the_next_batch_counts(room: Room) -> None:
    usage = UsageRepository(room.database)
    for number in (1, 1, 2, 2):
        await usage.add([COUNTED], replace(BATCH, number=number))
    await usage.add([COUNTED], Batch("usage 2", 1))
    (row,) = await usage.days(DAY, DAY)
    assert row.submitted == 3


async def test_that_a_batch_is_new_takes_one_statement(room: Room) -> None:
    noted: list[str] = []

    def work(connection: Connection) -> list[bool]:
        def note(_: object, __: object, statement: str, *___: object) -> None:
            noted.append(statement)

        first = is_first(connection, BATCH)
        event.listen(connection, "before_cursor_execute", note)
        try:
            return [first, is_first(connection, replace(BATCH, number=2))]
        finally:
            event.remove(connection, "before_cursor_execute", note)

    assert await room.database.write(work) == [True, True]
    assert len(noted) == 1
