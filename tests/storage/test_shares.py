"""Fair shares, in each database."""

from __future__ import annotations

from proxy.storage.database import Database
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.shares import Share, Shares


async def test_written_members_are_replaced_and_the_others_stay(database: Database) -> None:
    jobs = JobRepository(database)
    assert await jobs.load_shares() == Shares()
    first = Shares(2.5, {"anna": Share(3.0, 10.0), "ben": Share(None, 4.0)}, {"main": 3})
    await jobs.update([], EngineWrite(shares=first))
    await jobs.update([], EngineWrite(shares=Shares(4.0, {"anna": Share(None, 12.0)}, {"main": 5})))
    await jobs.update([], EngineWrite(shares=None))
    members = {"anna": Share(None, 12.0), "ben": Share(None, 4.0)}
    assert await jobs.load_shares() == Shares(4.0, members, {"main": 5})
