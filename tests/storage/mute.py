"""A database whose answers get lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from proxy.storage.database import Database, OutcomeUnknownError

T = TypeVar("T")


class Mute(Database):
    """A database whose answers to writes get lost while it `is_mute`."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.kept, self.is_mute = database, False

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.kept.read(work)

    async def write(
        self, work: Callable[[Connection], T], *, long: bool = False, urgent: bool = False
    ) -> T:
        value = await self.kept.write(work, long=long, urgent=urgent)
        if self.is_mute:
            raise OutcomeUnknownError("the connection to the database was lost during a write")
        return value

    async def close(self) -> None:
        await self.kept.close()
