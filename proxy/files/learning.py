"""What is known of outputs beside their names: hash and size, which the cloud is asked for once a
job, and the metadata of pictures in the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import structlog
from cachetools import TTLCache

from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudError
from proxy.files.namespace import hash_in
from proxy.files.outputs import Given
from proxy.files.service import Files
from proxy.storage.assets import AssetRepository
from proxy.storage.database import StorageError
from proxy.supervisor import Supervisor
from proxy.translate.assets import Asset, CloudAsset
from proxy.translate.names import Place

_log = structlog.get_logger(__name__)

#: Jobs that wait to be asked for, and those that are remembered as asked for this many seconds: the
#: cloud may know a hash later.
_MOST_WAITING, _REMEMBERED, _PAUSE = 200, 10_000, 300.0
#: Seconds in which an output that is being fetched tells them itself.
_PATIENCE = 1.0


class Learner:
    """Completes records of outputs behind the answers that show them.

    A job is looked at when a record of it is shown without its size, hash or metadata, and not
    again for a while, however often it is shown.
    """

    def __init__(
        self,
        repository: AssetRepository,
        files: Files,
        clouds: Mapping[str, CloudClient],
        supervisor: Supervisor,
    ) -> None:
        self._repository = repository
        self._files = files
        self._clouds = clouds
        self._supervisor = supervisor
        self._waiting: dict[tuple[str, str], None] = {}
        self._asked: TTLCache[tuple[str, str], None] = TTLCache(_REMEMBERED, _PAUSE)
        self._is_running = False

    def shown(self, assets: Iterable[Asset]) -> None:
        """Records were shown; ask for what they lack. Returns at once."""
        for asset in assets:
            if not _lacks_content(asset) and not _lacks_metadata(asset):
                continue
            key = asset.member, asset.job or ""
            if key not in self._asked and len(self._waiting) < _MOST_WAITING:
                self._asked[key] = None
                self._waiting[key] = None
        if self._waiting and not self._is_running:
            self._is_running = True
            self._supervisor.spawn(self._run(), "learn sizes of outputs")

    async def _run(self) -> None:
        try:
            await asyncio.sleep(_PATIENCE)
            while self._waiting:
                member, job = next(iter(self._waiting))
                del self._waiting[member, job]
                try:
                    await self._learn(member, job)
                except (CloudError, StorageError) as error:
                    _log.info("output_sizes_failed", job=job, reason=str(error))
        finally:
            self._is_running = False

    async def _learn(self, member: str, job: str) -> None:
        assets = await self._repository.read(lambda unit: unit.of_jobs(member, [job]))
        if any(map(_lacks_content, assets)):
            await self._ask(member, job)
            assets = await self._repository.read(lambda unit: unit.of_jobs(member, [job]))
        for asset in filter(_lacks_metadata, assets):
            await self._describe(asset)

    async def _describe(self, asset: Asset) -> None:
        file = await self._files.at(asset.member, asset.place)
        told = None if file is None else await self._files.metadata(file)
        if told is not None:
            await self._repository.write(
                lambda unit: unit.describe(asset.member, asset.place, *told)
            )

    async def _ask(self, member: str, job: str) -> None:
        origin = await self._repository.read(lambda unit: unit.origin(member, job))
        cloud = None if origin is None else self._clouds.get(origin.account)
        if origin is None or cloud is None:
            return
        told = await cloud.job_assets(origin.cloud_id)
        given = {
            node: msgspec.json.decode(data, type=list[Given]) for node, data in origin.given.items()
        }
        found = list(matched(given, told))
        await self._repository.write(
            lambda unit: [unit.learn(member, place, hash_, size) for place, hash_, size in found]
        )


def _lacks_content(asset: Asset) -> bool:
    """Whether the cloud may know more of a record."""
    known = asset.hash is not None and asset.size is not None
    return not known and asset.job is not None and not asset.is_missing


def _lacks_metadata(asset: Asset) -> bool:
    """Whether the cache may know more of a record."""
    is_known = asset.metadata is not None or asset.hash is None
    return not is_known and asset.is_picture and asset.job is not None and not asset.is_missing


def matched(
    given: Mapping[str, Sequence[Given]], told: Iterable[CloudAsset]
) -> Iterator[tuple[Place, str | None, int | None]]:
    """Hash and size of each place that a job's outputs were given.

    A file is known by its name or its hash, else by its key and index at its node.
    """
    by_node: dict[str, list[CloudAsset]] = {}
    for one in told:
        by_node.setdefault(one.node, []).append(one)
    for node, names in given.items():
        here = by_node.get(node, [])
        for name in names:
            hash_ = hash_in(name.cloud_name)
            named = [one for one in here if hash_ == one.hash or one.name == name.cloud_name]
            placed = [one for one in here if (one.key, one.index) == (name.key, name.index)]
            for one in (named or placed)[:1]:
                yield Place(name.type, name.path), one.hash, one.size
