"""Assets: records of a member's files, and of models, that clients list, label and fetch.

Everything is answered from the member's own records, so that a hash or an id reveals nothing about
others. Errors are `AssetError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

import structlog
from blake3 import blake3
from msgspec.structs import replace

from proxy.catalog.service import Catalog
from proxy.files.asset_learner import AssetLearner
from proxy.files.exports import Exports
from proxy.files.service import Files
from proxy.runtime import clock, randomness
from proxy.storage.asset_lists import count_tags, list_assets, list_tags
from proxy.storage.assets import AssetRepository, AssetUnit, TooManyAssetsError, UnknownPreviewError
from proxy.storage.file_tables import FileRecord
from proxy.translate import assets as forms
from proxy.translate.assets import Asset, AssetError, AssetFilter, AssetQuery
from proxy.translate.errors import LocalError
from proxy.translate.events import Event
from proxy.translate.names import Place

if TYPE_CHECKING:
    from proxy.translate.asset_requests import NewAsset, TagQuery

_log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Maximum seconds that a list waits for the cloud's lists of models, and concurrent requests for
#: these.
_MODELS_TIMEOUT, _MAX_CONCURRENT_MODELS = 10.0, 8


@dataclass(eq=False)
class Assets:
    """The assets of all members, and their `exports`. `send` tells all sockets of a member of the
    search for models."""

    _repository: AssetRepository
    exports: Exports
    _files: Files
    _models: Catalog
    _send: Callable[[str, Event], None]
    _learner: AssetLearner

    def __post_init__(self) -> None:
        self._at_once = asyncio.Semaphore(_MAX_CONCURRENT_MODELS)

    # --- lists -----------------------------------------------------------------------------------

    async def page(self, member: str, query: AssetQuery) -> dict[str, Any]:
        """Return the body of `GET /api/assets`. Raises `StorageError`."""
        if query.filter.may_be_models:
            await self._follow_models(member)
        page = await self._repository.read(lambda unit: list_assets(unit, member, query))
        self._learner.shown(page.assets)
        body: dict[str, Any] = {
            "assets": [
                forms.shown(asset, page.previews.get(asset.preview or "")) for asset in page.assets
            ],
            "total": page.total,
            "has_more": page.has_more,
        }
        if page.next is not None:
            body["next_cursor"] = forms.write_cursor(page.next, query.sort, query.order)
        return body

    async def tags(self, member: str, query: TagQuery) -> dict[str, Any]:
        """Return the body of `GET /api/tags`. Raises `StorageError`."""
        page = await self._repository.read(lambda unit: list_tags(unit, member, query))
        return {
            "tags": [{"name": name, "count": count} for name, count in page.tags],
            "total": page.total,
            "has_more": query.offset + len(page.tags) < page.total,
        }

    async def refine(self, member: str, wanted: AssetFilter, limit: int) -> dict[str, Any]:
        """Return the body of `GET /api/assets/tags/refine`. Raises `StorageError`."""
        if wanted.may_be_models:
            await self._follow_models(member)
        counts = await self._repository.read(lambda unit: count_tags(unit, member, wanted, limit))
        return {"tag_counts": dict(counts)}

    # --- one record ------------------------------------------------------------------------------

    async def shown(self, member: str, id_: str) -> dict[str, Any]:
        """Return a record as clients get it. Raises `AssetError` (404), `StorageError`."""
        found = await self._repository.read(lambda unit: unit.shown(member, id_))
        if found is None:
            raise _unknown(id_)
        self._learner.shown([found[0]])
        return forms.shown(*found)

    async def change(self, member: str, id_: str, values: dict[str, Any]) -> dict[str, Any]:
        """Change columns of a record. Raises `AssetError` (404), `StorageError`."""
        if values.get("preview") == id_:
            raise AssetError("INVALID_BODY", "A record cannot be its own preview.")
        try:
            changed = await self._write(
                id_, lambda unit: unit.change(member, id_, clock.microseconds(), **values)
            )
        except UnknownPreviewError:
            raise _unknown(values["preview"]) from None
        return forms.shown(*changed)

    async def delete(self, member: str, id_: str) -> None:
        """Delete a record, but not its file. Raises `AssetError` (404), `StorageError`."""
        if not await self._repository.write(lambda unit: unit.delete(member, id_)):
            raise _unknown(id_)

    async def add_tags(self, member: str, id_: str, tags: Sequence[str]) -> dict[str, Any]:
        """Add tags to a record. Raises `AssetError`, `StorageError`."""
        done = await self._write(
            id_, lambda unit: unit.add_tags(member, id_, tags, clock.microseconds())
        )
        return {"added": done.changed, "already_present": done.unchanged, "total_tags": done.total}

    async def remove_tags(self, member: str, id_: str, tags: Sequence[str]) -> dict[str, Any]:
        """Remove tags from a record. Raises `AssetError`, `StorageError`."""
        done = await self._write(
            id_, lambda unit: unit.remove_tags(member, id_, tags, clock.microseconds())
        )
        return {
            "removed": done.changed,
            "not_present": done.unchanged,
            "total_tags": done.total,
            "protected": done.protected,
        }

    async def of_job(self, member: str, job: str) -> dict[Place, Asset]:
        """Return the records of a job's outputs by place. Raises `StorageError`."""
        assets = await self._repository.read(lambda unit: unit.of_jobs(member, [job]))
        self._learner.shown(assets)
        return {asset.place: asset for asset in assets}

    # --- contents --------------------------------------------------------------------------------

    async def file(self, member: str, id_: str) -> tuple[Asset, FileRecord]:
        """Return a record and its file. Raises `AssetError` (404, 501), `StorageError`."""
        asset = await self._repository.read(lambda unit: unit.get(member, id_))
        if asset is None:
            raise _unknown(id_)
        if asset.is_model:
            raise AssetError(
                "BACKEND_UNSUPPORTED",
                "The model is on Comfy Cloud and cannot be downloaded.",
                kind="not_implemented",
            )
        names = self._files.namespace
        file = None if asset.is_missing else await names.get(asset.member, asset.place)
        if file is None:
            raise gone(asset.id)
        return asset, file

    async def accessed(self, member: str, id_: str) -> None:
        """Note that the content of a record was read. Raises `StorageError`."""
        await self._repository.write(lambda unit: unit.accessed(member, id_, clock.microseconds()))

    async def has(self, member: str, hash_: str) -> bool:
        """Return whether the member has a content, other than in `temp`. Raises `StorageError`."""
        return await self._repository.read(lambda unit: unit.by_hash(member, hash_)) is not None

    async def newest_of(self, member: str, hash_: str) -> Asset | None:
        """Return the newest record of a content, other than in `temp`. Raises `StorageError`."""
        return await self._repository.read(lambda unit: unit.by_hash(member, hash_, listed=True))

    # --- new records -----------------------------------------------------------------------------

    async def from_hash(self, member: str, new: NewAsset) -> dict[str, Any]:
        """Add a record of a content that the member has. Raises `AssetError`, `StorageError`."""
        hash_ = forms.read_hash(new.hash or "")
        known = await self._repository.read(lambda unit: unit.by_hash(member, hash_))
        if known is None:
            raise AssetError(
                "ASSET_NOT_FOUND",
                "There is no content with this hash.",
                kind="not_found",
                hash=hash_,
            )
        return await self._add(known, new, new.name or hash_)

    async def upload(
        self, member: str, body: AsyncIterator[bytes], filename: str, new: NewAsset
    ) -> dict[str, Any]:
        """Store a content with its record. Raises `AssetError`, `LocalError`, `StorageError`."""
        claimed = None if new.hash is None else forms.read_hash(new.hash)
        if new.preview_id is not None:
            preview = new.preview_id
            if await self._repository.read(lambda unit: unit.get(member, preview)) is None:
                raise AssetError("INVALID_BODY", "preview_id does not name a record.", id=preview)
        async with self._files.uploads.received(member, body, filename) as taken:
            if claimed is not None and claimed != taken.hash:
                raise AssetError("HASH_MISMATCH", "The hash does not match the content.")
            if taken.size == 0:
                raise AssetError("EMPTY_UPLOAD", "The file is empty.")
            known = await self._repository.read(lambda unit: unit.by_hash(member, taken.hash))
            names = self._files.namespace
            if known is None or await names.get(member, known.place) is None:
                stored_name = forms.stored_name(taken.hash, filename)
                root = forms.destination(new.tags)
                named = await self._files.keep(member, taken, root, stored_name)
                place, content = Place(named.type, named.name), (taken.hash, taken.size)
                known = forms.of_file(member, "", place, clock.microseconds(), content=content)
        known = replace(known, metadata=taken.metadata or known.metadata)
        return await self._add(known, new, new.label(filename), "uploaded")

    async def _add(self, content: Asset, new: NewAsset, name: str, *more: str) -> dict[str, Any]:
        """Add a record of the content of another one."""
        now, tags = clock.microseconds(), tuple(sorted({*new.distinct_tags, *more}))
        asset = Asset(
            content.member,
            str(randomness.uuid4()),
            name,
            content.type,
            content.path,
            content.hash,
            content.size,
            content.media_type
            if new.mime_type is None
            else new.mime_type.partition(";")[0].strip(),
            content.job if content.type != "input" else None,
            now,
            now,
            preview=new.preview_id,
            user_metadata=new.metadata,
            metadata=content.metadata,
            tags=tags,
        )
        try:
            preview = await self._repository.write(lambda unit: unit.add(asset))
        except UnknownPreviewError:
            raise AssetError(
                "INVALID_BODY", "preview_id does not name a record.", id=new.preview_id
            ) from None
        except TooManyAssetsError:
            raise _too_many() from None
        return forms.shown(asset, preview, created_new=True)

    async def _write(self, id_: str, work: Callable[[AssetUnit], T | None]) -> T:
        try:
            done = await self._repository.write(work)
        except TooManyAssetsError:
            raise _too_many() from None
        if done is None:
            raise _unknown(id_)
        return done

    # --- scans -----------------------------------------------------------------------------------

    async def seed(self, member: str, roots: Sequence[str]) -> dict[str, Any]:
        """Add missing records, and notify the member's sockets. Return the counts.

        Raises `StorageError`.
        """
        started = {"roots": list(roots), "phase": "fast"}
        self._send(member, Event("assets.seed.started", started))
        created = 0
        if "models" in roots:
            created += await self._follow_models(member)
        folders = [root for root in roots if root != "models"]
        if folders:
            created += await self._files.add_missing_assets(member)
        counts = {"created": created, "skipped": 0, "total": created}
        listed = {"roots": list(roots), **counts}
        self._send(member, Event("assets.seed.fast_complete", listed))
        completed = {"phase": "fast", **counts, "enriched": 0, "elapsed": 0.0}
        self._send(member, Event("assets.seed.completed", completed))
        return {"scanned": created, **counts}

    async def _follow_models(self, member: str) -> int:
        """Update the member's records of models from the cloud's lists, if these are available.
        Return the number of new ones."""
        try:
            async with asyncio.timeout(_MODELS_TIMEOUT):
                models = await self._listed_models(member)
        except (LocalError, TimeoutError) as error:
            _log.warning("asset_models_failed", reason=str(error) or "the cloud took too long")
            return 0
        paths = ["/".join(model) for model in models]
        version = blake3("\n".join(paths).encode()).hexdigest()
        if await self._repository.read(lambda unit: unit.models_version(member)) == version:
            return 0
        now = clock.microseconds()
        records = [
            forms.of_model(member, str(uuid5(NAMESPACE_URL, f"models/{path}")), *model, now)
            for path, model in zip(paths, models, strict=True)
        ]
        created, _ = await self._repository.write(
            lambda unit: unit.put_models(member, version, records)
        )
        return created

    async def _listed_models(self, member: str) -> list[tuple[str, str]]:
        """Return folder and name of all models that a member sees, sorted. Raises `LocalError`."""
        details = await self._models.model_folders_in_detail()
        folders = [str(folder["name"]) for folder in details]
        lists = await asyncio.gather(*(self._models_of(member, folder) for folder in folders))
        return sorted({model for models in lists for model in models})

    async def _models_of(self, member: str, folder: str) -> list[tuple[str, str]]:
        async with self._at_once:
            models = await self._models.models_in_detail(member, folder)
        return [(folder, str(model["name"])) for model in models or ()]


def _unknown(id_: str) -> AssetError:
    return AssetError("ASSET_NOT_FOUND", "There is no such asset.", kind="not_found", id=id_)


def gone(id_: str) -> AssetError:
    """Return the error of a deleted content."""
    return AssetError(
        "FILE_NOT_FOUND", "The file of the asset no longer exists.", kind="not_found", id=id_
    )


def _too_many() -> AssetError:
    return AssetError("TOO_MANY_ASSETS", "There are too many records or tags; delete some.")
