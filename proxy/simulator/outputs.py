"""Outputs: stored under the hash of their content, shown with or without their human name."""

from __future__ import annotations

import re
from typing import Any

from blake3 import blake3

from proxy.simulator import media
from proxy.simulator.account import SimulatedAccount
from proxy.simulator.assets import AssetLibrary, SimulatedAsset
from proxy.simulator.jobs import SimulatedJob
from proxy.simulator.storage import Storage
from proxy.simulator.switches import Switches

_ANNOTATION = re.compile(r" \[(input|output|temp)\]$")


class JobContents:
    """The files of the account as the nodes of one job see them."""

    def __init__(
        self, account: SimulatedAccount, job: SimulatedJob, storage: Storage, switches: Switches
    ) -> None:
        self._account = account
        self._job = job
        self._storage = storage
        self._switches = switches

    def load(self, name: str) -> bytes:
        """Return the bytes of a file. Raises `KeyError`."""
        plain = known_name(self._account.library, name, self._switches)
        if plain is None:
            raise KeyError(name)
        return self._storage.get(plain)

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str,  # noqa: A002
        node_id: str,
    ) -> dict[str, Any]:
        """Store an output and count its human name up, as a local ComfyUI counts files."""
        digest = blake3(data).hexdigest()
        cloud_name = digest + extension
        media_type = media.media_type(extension.removeprefix("."))
        self._storage.put(cloud_name, data, media_type)
        subfolder, _, stem = prefix.replace("\\", "/").rpartition("/")
        count = self._account.next_number(type, prefix)
        asset = SimulatedAsset(
            name=f"{stem}_{count:05}_{extension}",
            cloud_name=cloud_name,
            digest=digest,
            size=len(data),
            media_type=media_type,
            tags=(type,),
            subfolder=subfolder,
            job_id=self._job.id,
            node_id=node_id,
        )
        self._account.library.add(asset)
        self._job.assets.append(asset)
        return {"filename": cloud_name, "subfolder": subfolder, "type": type}


def known_name(library: AssetLibrary, name: str, switches: Switches) -> str | None:
    """Return the cloud name that a value in a graph stands for, or `None` if there is no such
    file."""
    if switches.annotated_names:
        name = _ANNOTATION.sub("", name)
    return name if library.newest(name) is not None else None


def is_found(library: AssetLibrary, name: str, switches: Switches) -> bool:
    """Return whether a loader finds the file that a value in a graph names."""
    plain = known_name(library, name, switches)
    if plain is None:
        return False
    return switches.listed_uploads == "any" or any(
        not asset.uploaded or asset.media_type.startswith("image/") for asset in library.of(plain)
    )


def in_event(
    ui: dict[str, Any], job: SimulatedJob, node_id: str, library: AssetLibrary, switches: Switches
) -> dict[str, Any]:
    """Return what a node shows, as `executed` has it."""
    return _shown(
        ui,
        job,
        node_id,
        library,
        switches,
        display=switches.executed_display_name,
        human=switches.executed_names == "display",
    )


def in_history(job: SimulatedJob, switches: Switches) -> dict[str, Any]:
    """Return the outputs of a job as stored: without human names."""
    return {
        node_id: _shown(ui, job, node_id, None, switches) for node_id, ui in job.outputs.items()
    }


def in_job(job: SimulatedJob, library: AssetLibrary, switches: Switches) -> dict[str, Any]:
    """Return the outputs of a job in the answers about jobs, joined with the assets."""
    return {
        node_id: _shown(
            ui,
            job,
            node_id,
            library,
            switches,
            display=switches.display_name,
            ids=switches.output_ids,
        )
        for node_id, ui in job.outputs.items()
    }


def preview_output(
    job: SimulatedJob, library: AssetLibrary, switches: Switches
) -> dict[str, Any] | None:
    """Return the item that stands for the job in lists: the last saved one, or the last at all."""
    candidates = [
        {**item, "nodeId": node_id, "mediaType": key}
        for node_id, ui in in_job(job, library, switches).items()
        for key, value in ui.items()
        if isinstance(value, list)
        for item in value
        if isinstance(item, dict) and "filename" in item
    ]
    saved = [item for item in candidates if item.get("type") == "output"]
    chosen = saved or candidates
    return chosen[-1] if chosen else None


def _shown(
    ui: dict[str, Any],
    job: SimulatedJob,
    node_id: str,
    library: AssetLibrary | None,
    switches: Switches,
    *,
    display: bool = False,
    ids: bool = False,
    human: bool = False,
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in ui.items():
        if not isinstance(value, list):
            result[key] = value
            continue
        shown = []
        for index, item in enumerate(value):
            if not isinstance(item, dict) or "filename" not in item:
                shown.append(item)
                continue
            asset = _asset(job, node_id, key, index, item["filename"], library)
            shown.append(_item(item, asset, switches, display=display, ids=ids, human=human))
        result.update(_under_keys(key, shown, switches))
    return result


def _asset(
    job: SimulatedJob,
    node_id: str,
    key: str,
    index: int,
    cloud_name: str,
    library: AssetLibrary | None,
) -> SimulatedAsset | None:
    for asset in job.assets:
        if (asset.node_id, asset.output_key, asset.output_index) == (node_id, key, index):
            return asset
    return library.newest(cloud_name) if library is not None else None


def _item(
    item: dict[str, Any],
    asset: SimulatedAsset | None,
    switches: Switches,
    *,
    display: bool,
    ids: bool,
    human: bool,
) -> dict[str, Any]:
    shown = dict(item)
    folder = item.get("subfolder", "")
    if switches.output_subfolder != "item":
        shown["subfolder"] = ""
    if asset is None:
        return shown
    in_name = switches.output_subfolder == "display_name" and folder
    name = f"{folder}/{asset.name}" if in_name else asset.name
    if human:
        shown["filename"] = name
    if display:
        shown["display_name"] = name
    if ids:
        shown["id"] = asset.id
        shown["hash"] = f"blake3:{asset.digest}"
    return shown


def _under_keys(key: str, items: list[Any], switches: Switches) -> dict[str, Any]:
    if key != "video" or switches.video_keys == "video":
        return {key: items}
    if switches.video_keys == "both":
        return {"video": items, "videos": items}
    return {"images": items, "animated": [True]}
