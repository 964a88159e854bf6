"""Sizes, hashes and metadata of outputs, learned after their records were shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog
from cachetools import TTLCache

from proxy.cloud.errors import CloudError
from proxy.files.content_index import hash_in
from proxy.files.given_names import GivenName
from proxy.files.service import Files
from proxy.runtime.supervisor import Supervisor
from proxy.storage.assets import AssetRepository
from proxy.storage.database import StorageError
from proxy.translate.assets import Asset, CloudAsset
from proxy.translate.names import Place

_log = structlog.get_logger(__name__)

#: Maximum number of waiting jobs, and of jobs that are not asked about again within `_PAUSE`
#: seconds: the cloud may know a hash later.
_MAX_WAITING, _MAX_ASKED, _PAUSE = 200, 10_000, 300.0
#: Seconds to wait before the cloud is asked: a download may have the answer.
_DELAY = 1.0


@dataclass(eq=False)
class AssetLearner:
    """Completes records of outputs in the background.

    The cloud is asked about a job when a record of it is returned without size, hash or metadata,
    at most once within `_PAUSE`.
    """

    _repository: AssetRepository
    _files: Files
    _supervisor: Supervisor

    def __post_init__(self) -> None:
        self._asked: TTLCache[tuple[str, str], None] = TTLCache(_MAX_ASKED, _PAUSE)
        self._waiting = 0
        self._turn = asyncio.Semaphore(1)

    def shown(self, assets: Iterable[Asset]) -> None:
        """Start to complete records that were returned to a client, without waiting."""
        for asset in assets:
            if not _lacks_content(asset) and not _lacks_metadata(asset):
                continue
            key = asset.member, asset.job or ""
            if key not in self._asked and self._waiting < _MAX_WAITING:
                self._asked[key] = None
                self._waiting += 1
                self._supervisor.spawn(self._run(*key), "learn sizes of outputs")

    async def _run(self, member: str, job: str) -> None:
        try:
            await asyncio.sleep(_DELAY)
            async with self._turn:
                await self._learn(member, job)
        except (CloudError, StorageError) as error:
            _log.info("output_sizes_failed", job=job, reason=str(error))
        finally:
            self._waiting -= 1

    async def _learn(self, member: str, job: str) -> None:
        assets = await self._repository.read(lambda unit: unit.of_jobs(member, [job]))
        if any(map(_lacks_content, assets)):
            await self._ask(member, job)
            assets = await self._repository.read(lambda unit: unit.of_jobs(member, [job]))
        for asset in filter(_lacks_metadata, assets):
            await self._describe(asset)

    async def _describe(self, asset: Asset) -> None:
        """Store the metadata of a picture that is in the cache."""
        file = await self._files.namespace.get(asset.member, asset.place)
        lease = None if file is None else await self._files.library.cached(file)
        if lease is None:
            return
        header = await self._files.picture_workers.header(asset.member, lease.path)
        if header is not None and header.metadata is not None:
            known = asset.member, asset.place, lease.path.name, header.metadata
            await self._repository.write(lambda unit: unit.describe(*known))

    async def _ask(self, member: str, job: str) -> None:
        origin = await self._repository.read(lambda unit: unit.origin(member, job))
        cloud = None if origin is None else self._files.library.clouds.get(origin.account)
        if origin is None or cloud is None:
            return
        assets = await cloud.job_assets(origin.cloud_id)
        given = {
            node: msgspec.json.decode(data, type=list[GivenName])
            for node, data in origin.given.items()
        }
        found = list(_matched(given, assets))
        await self._repository.write(lambda unit: [unit.learn(member, *known) for known in found])


def _lacks_content(asset: Asset) -> bool:
    """Return whether the cloud may complete a record."""
    known = asset.hash is not None and asset.size is not None
    return not known and asset.job is not None and not asset.is_missing


def _lacks_metadata(asset: Asset) -> bool:
    """Return whether the cache may complete a record."""
    is_known = asset.metadata is not None or asset.hash is None
    return not is_known and asset.is_picture and asset.job is not None and not asset.is_missing


def _matched(
    given: Mapping[str, Sequence[GivenName]], assets: Iterable[CloudAsset]
) -> Iterator[tuple[Place, str | None, int | None]]:
    """Yield the place, hash and size of each output of a job that the cloud lists.

    A file is matched by its name or its hash, else by its key and index at its node.
    """
    by_node: dict[str, list[CloudAsset]] = {}
    for asset in assets:
        by_node.setdefault(asset.node, []).append(asset)
    for node, names in given.items():
        of_node = by_node.get(node, [])
        for name in names:
            hash_ = hash_in(name.cloud_name)
            same = [
                asset for asset in of_node if hash_ == asset.hash or asset.name == name.cloud_name
            ] or [asset for asset in of_node if (asset.key, asset.index) == (name.key, name.index)]
            if same:
                yield Place(name.type, name.path), same[0].hash, same[0].size
