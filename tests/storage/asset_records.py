"""Records of the tests of assets, and a call for each unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from proxy.storage.asset_lists import list_assets
from proxy.storage.assets import AssetRepository, AssetUnit
from proxy.storage.database import Database
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileRepository
from proxy.translate.assets import Asset, AssetFilter, AssetQuery
from proxy.translate.names import Place

T = TypeVar("T")

HASH, OTHER = "ab" * 32, "cd" * 32
PLACE = Place("input", "cat.png")
FILE = FileRecord("anna", "input", "cat.png", "x", "input", HASH, 5, "image/png", 10.5, "main")
CAT = Asset(
    "anna",
    "id-00",
    "cat.png",
    "input",
    "cat.png",
    HASH,
    5,
    "image/png",
    None,
    1000,
    1000,
    user_metadata=b'{"a":1}',
    tags=("input", "uploaded"),
    automatic=frozenset({"input"}),
)
MADE = replace(CAT, id="id-10", type="output", path="a/b.png", name="b.png", hash=None, size=None)
MADE = replace(MADE, job="job", tags=("output",), automatic=frozenset({"output"}))


class Assets:
    """The repository, a call for each unit."""

    def __init__(self, database: Database) -> None:
        self.repository = AssetRepository(database)
        self.files = FileRepository(database)
        self.database = database

    async def add(self, *records: Asset) -> None:
        for record in records:
            await self.do(lambda unit, record=record: unit.add(record))

    async def do(self, work: Callable[[AssetUnit], T]) -> T:
        return await self.repository.write(work)

    async def get(self, id_: str = CAT.id, member: str = "anna") -> Asset | None:
        return await self.repository.read(lambda unit: unit.get(member, id_))

    async def listed(self, *, member: str = "anna", **query: Any) -> list[str]:
        wanted = AssetFilter(**query)
        page = await self.repository.read(
            lambda unit: list_assets(unit, member, AssetQuery(wanted, limit=500, order="asc"))
        )
        assert page.total == len(page.assets)
        return [asset.id for asset in page.assets]

    async def put_file(self, record: FileRecord) -> None:
        await self.files.write(lambda unit: unit.put([record]))
