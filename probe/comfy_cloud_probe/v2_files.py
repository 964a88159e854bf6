"""What is observed of API v2's files: uploads, references to them, and signed URLs."""

from __future__ import annotations

import os
from typing import Any

from yarl import URL

from comfy_cloud_probe import workflows
from comfy_cloud_probe.surface import V2Surface, hours, outcome, word
from comfy_cloud_probe.wire import Reply

#: Paths of uploads by what is odd in them.
_PATHS = {
    "upload_folder": "probe dir/probe.txt",
    "upload_spaces": "probe file.txt",
    "upload_letters": "probe é.txt",
}
_MB = 1_000_000
#: Headers of the storage that tell how its answers may be kept and read.
_HEADERS = ("accept-ranges", "cache-control", "content-disposition", "content-type", "etag")
#: Parameters of a signed URL that have its life in seconds.
_LIVES = ("X-Goog-Expires", "X-Amz-Expires")
_HOUR = "3600"


async def uploads(surface: V2Surface) -> str | None:
    """Observe names and lives of uploads. Return the id of one."""
    data = os.urandom(16).hex().encode()
    reply = await surface.upload("probe.txt", data)
    asset = reply.dict()
    surface.see("upload", outcome(reply))
    if reply.status >= 300:
        points = ("upload_retention", "same_bytes", "from_hash", "expires_in", *_PATHS)
        surface.miss("No upload was taken.", *points)
        return None
    surface.see("upload_retention", hours(asset.get("created_at"), asset.get("expires_at")))
    first = asset.get("id")
    again = await surface.upload("probe-again.txt", data)
    surface.see("same_bytes", _same(again, asset))
    surface.see("from_hash", outcome(await surface.from_hash(asset.get("hash"))))
    expiring = await surface.upload("probe-hour.txt", os.urandom(8), expires_in=_HOUR)
    told = expiring.dict()
    life = hours(told.get("created_at"), told.get("expires_at"))
    surface.see("expires_in", life if expiring.status < 300 else outcome(expiring))
    for point, path in _PATHS.items():
        reply = await surface.upload(path, os.urandom(8))
        surface.see(point, outcome(reply), word(reply.dict().get("file_path", "")))
    return first if isinstance(first, str) else None


def _same(reply: Reply, first: dict[str, Any]) -> str:
    told = reply.dict()
    same = "the same id" if told.get("id") == first.get("id") else "another id"
    name = "the first name" if told.get("file_path") == first.get("file_path") else "its own name"
    return f"{outcome(reply)}, {same}, {name}"


async def sizes(surface: V2Surface, *megabytes: int) -> None:
    """Observe uploads of these sizes; after one that is refused no larger one is tried."""
    refused = ""
    for size in megabytes:
        point = f"upload_{size}_mb"
        if refused:
            surface.see(point, "not tried", refused)
            continue
        reply = await surface.upload("probe.bin", os.urandom(64) + b"\0" * (size * _MB))
        surface.see(point, outcome(reply))
        refused = "" if reply.status < 300 else f"a smaller one: {outcome(reply)}"


async def references(surface: V2Surface, upload: str | None, picture: str | None) -> None:
    """Observe an upload as the input of any node, and an output as the input of a loader."""
    if upload is None:
        surface.miss("There is no upload.", "any_input")
    else:
        watch, reply = await surface.ran(workflows.shown(_reference(upload)))
        surface.see("any_input", outcome(reply) if watch is None else word(watch.job.get("status")))
    if picture is None:
        surface.miss("There is no output.", "output_as_input")
        return
    watch, reply = await surface.ran(workflows.loaded(_reference(picture)))
    observed = outcome(reply) if watch is None else word(watch.job.get("status"))
    surface.see("output_as_input", observed)


def _reference(id_: str) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": {"id": id_}}


async def content(surface: V2Surface, asset: str | None) -> None:
    """Observe the bytes of a file, and where they come from."""
    points = ("content", "signed_url_life", "storage_headers")
    if asset is None:
        surface.miss("There is no file.", *points)
        return
    reply = await surface.call("GET", f"assets/{asset}/content")
    location = reply.headers.get("Location")
    if location is None:
        surface.see("content", outcome(reply))
        surface.miss("There is no signed URL.", *points[1:])
        return
    url = URL(location)
    known = "storage.googleapis.com" if url.host == "storage.googleapis.com" else "another host"
    surface.see("content", f"{reply.status} to {known}")
    life = next((url.query[name] for name in _LIVES if name in url.query), "not told")
    surface.see("signed_url_life", f"{word(life)} s" if life.isdigit() else "not told")
    stored = await surface.wire.fetch(url, {"Range": "bytes=0-3"})
    names = [name for name in _HEADERS if name in {key.lower() for key in stored.headers}]
    surface.see("storage_headers", f"{stored.status}: {', '.join(names) or 'none'}")
