"""The contents of an archive of assets, and the form of the task that creates it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from msgspec import Struct

from proxy.translate.asset_requests import ExportRequest
from proxy.translate.assets import Asset
from proxy.translate.times import rfc3339


class FailedAsset(NamedTuple):
    """An asset that is not in the archive, and why."""

    asset_id: str
    error: str
    job_id: str | None = None
    asset_name: str | None = None

    def shown(self) -> dict[str, str]:
        """Return the entry as the task shows it."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class ExportPlan(Struct, frozen=True):
    """What goes into an archive, by the name there, and what does not. `timeless` says that the
    time of a job is not known."""

    entries: Mapping[str, Asset]
    failed: tuple[FailedAsset, ...]
    timeless: bool = False

    @property
    def total(self) -> int:
        """How many assets were asked for."""
        return len(self.entries) + len(self.failed)


def plan(
    request: ExportRequest, of_jobs: Iterable[Asset], named: Mapping[str, Asset]
) -> ExportPlan:
    """Return the contents of an archive.

    `of_jobs` are the records of the request's jobs, `named` those of its ids that there are. Of two
    with one name the one with the lower id is taken.
    """
    wanted = {asset.id: asset for asset in of_jobs if _is_meant(asset, request)}
    asked = set(request.asset_ids)
    wanted |= {id_: asset for id_, asset in named.items() if id_ in asked}
    failed = [
        FailedAsset(id_, "not_found")
        for id_ in dict.fromkeys(request.asset_ids)
        if id_ not in named
    ]
    folders = dict(_job_folders(request.naming_strategy, wanted.values()))
    entries: dict[str, Asset] = {}
    for id_ in sorted(wanted):
        asset = wanted[id_]
        name = _name(asset, request.naming_strategy, folders)
        problem = None
        if asset.is_model:
            problem = "model_not_exportable"
        elif asset.type not in ("input", "output", "temp"):
            problem = "unsupported_asset_type"
        elif asset.is_missing:
            problem = "not_found"
        elif name in entries:
            problem = "filename_collision"
        if problem is None:
            entries[name] = asset
        else:
            failed.append(FailedAsset(id_, problem, asset.job, asset.name))
    by_time = request.naming_strategy == "group_by_job_time"
    return ExportPlan(
        entries, tuple(failed), by_time and any(asset.job is None for asset in wanted.values())
    )


def _is_meant(asset: Asset, request: ExportRequest) -> bool:
    if asset.type != "output" and not (asset.type == "temp" and request.include_previews):
        return False
    filters = request.job_asset_name_filters.get(asset.job or "")
    own = {asset.name, asset.path, asset.hash, f"blake3:{asset.hash}"}
    return filters is None or bool(own & set(filters))


def _job_folders(strategy: str, assets: Iterable[Asset]) -> Iterator[tuple[str | None, str]]:
    """Yield the folder of each job; `None` stands for files that no job has made."""
    if strategy not in ("group_by_job_time", "group_by_job_id"):
        return
    begun: dict[str | None, int] = {}
    for asset in assets:
        begun[asset.job] = min(asset.created_at, begun.get(asset.job, asset.created_at))
    taken: set[str] = set()
    for job in sorted(begun, key=lambda job: (begun[job], job or "")):
        folder = job or "other"
        if strategy == "group_by_job_time" and job is not None:
            at = datetime(1970, 1, 1) + timedelta(microseconds=begun[job])  # noqa: DTZ001 (UTC)
            folder = at.strftime("%Y-%m-%d_%H-%M-%S")
            folder = f"{folder}_{job[:8]}" if folder in taken else folder
        taken.add(folder)
        yield job, folder


def _name(asset: Asset, strategy: str, folders: Mapping[str | None, str]) -> str:
    path = asset.path.replace("\\", "_")
    if strategy == "asset_id":
        return f"{asset.id}{posixpath.splitext(path)[1]}"
    if strategy == "preserve":
        return path
    between = "previews/" if asset.type == "temp" else ""
    return f"{folders[asset.job]}/{between}{path}"


def task(
    id_: str,
    key: str,
    payload: object,
    status: str,
    result: Mapping[str, Any] | None,
    *,
    created_at: int,
    updated_at: int,
    ended_at: int | None,
    stopped: bool,
) -> dict[str, Any]:
    """Return the answer of `GET /api/tasks/{id}`; times in ms since 1970. `stopped` says that
    nobody works at it."""
    fields: dict[str, Any] = {
        "id": id_,
        "task_name": "task:export",
        "idempotency_key": key,
        "payload": payload,
        "status": "failed" if stopped else status,
        "create_time": rfc3339(1000 * created_at),
        "update_time": rfc3339(1000 * updated_at),
        "started_at": rfc3339(1000 * created_at),
        "completed_at": None if ended_at is None else rfc3339(1000 * ended_at),
        "result": result,
        "error_message": "The server stopped during the export." if stopped else None,
    }
    return {name: value for name, value in fields.items() if value is not None}
