"""How the cloud takes and delivers files."""

from __future__ import annotations

import io
import os
import re
import wave
from typing import Any

import aiohttp
from blake3 import blake3
from PIL import Image
from yarl import URL

from comfy_cloud_probe import workflows
from comfy_cloud_probe.wire import ProbeRun, Reply

#: Kinds of picture beside PNG.
_KINDS = ("jpeg", "webp")


async def uploads(run: ProbeRun) -> None:
    """Observe the name of an upload, and which kinds of file are accepted."""
    picture = _picture()
    reply = await _upload(run, "probe.png", picture, "image/png")
    run.findings.see("upload", reply.outcome())
    name = reply.dict().get("name")
    if not isinstance(name, str):
        return
    run.upload = name
    run.findings.see("upload_name", _name_form(name))
    digest = re.search(r"[0-9a-f]{64}", name.lower())
    same = digest is not None and digest.group() == blake3(picture).hexdigest()
    run.findings.see(
        "upload_hash", "blake3 of the bytes" if same else "another" if digest else "none"
    )
    others = [
        await _upload(run, f"probe.{kind}", _picture(kind), f"image/{kind}") for kind in _KINDS
    ]
    forms = {_name_form(str(reply.dict().get("name"))) for reply in others if reply.status == 200}
    alike = "like a PNG's" if forms <= {_name_form(name)} else "in another form"
    run.findings.see("upload_name_kinds", alike if forms else "refused", ", ".join(sorted(forms)))
    await _by_hash(run, name)
    sound = await _upload(run, "probe.wav", _sound(), "audio/wav")
    await _loaded(run, "listed_uploads", sound.dict().get("name"))
    await _assets(run)
    audio = sound.status == 200
    text = (await _upload(run, "probe.txt", os.urandom(16).hex().encode(), "text/plain")).status
    for id_, size in (("upload_edge", (16385, 1)), ("upload_pixels", (8193, 8193))):
        sent = await _upload(run, "probe.png", _blank(*size), "image/png")
        run.findings.see(id_, "taken" if sent.status == 200 else "refused", sent.outcome())
    kinds = "any" if text == 200 else "images and audio" if audio else "images"
    run.findings.see("upload_kinds", kinds)


async def _by_hash(run: ProbeRun, name: str) -> None:
    digest = name.removeprefix("blake3:").partition(".")[0]
    path = f"api/v2/assets/by-hash/blake3:{digest}"
    run.findings.see("v2_assets", (await run.wire.call("HEAD", path, bearer=True)).outcome())


async def _upload(run: ProbeRun, filename: str, data: bytes, content_type: str) -> Reply:
    form = aiohttp.FormData()
    form.add_field("type", "input")
    form.add_field("image", data, filename=filename, content_type=content_type)
    return await run.wire.call("POST", "api/upload/image", data=form)


async def _assets(run: ProbeRun) -> None:
    """Observe whether a sound is accepted as an asset, and its name for a loader."""
    form = aiohttp.FormData()
    form.add_field("tags", '["input"]')
    form.add_field("name", "probe.wav")
    form.add_field("file", _sound(), filename="probe.wav", content_type="audio/wav")
    reply = await run.wire.call("POST", "api/assets", data=form)
    asset = reply.dict() if reply.status in (200, 201) else {}
    hash_ = str(asset.get("hash") or "").removeprefix("blake3:")
    name = asset.get("loader_path") or (f"{hash_}.wav" if hash_ else None)
    form_ = "loader_path" if asset.get("loader_path") else "hash" if hash_ else "refused"
    run.findings.see("asset_upload", form_, reply.outcome())
    await _loaded(run, "listed_assets", name)


async def _loaded(run: ProbeRun, point: str, name: object) -> None:
    """Observe whether a loader accepts a file of that name."""
    if not isinstance(name, str):
        run.findings.see(point, "refused", "The file was not taken.")
        return
    graph = workflows.sound(name, run.classes)
    if not graph:
        run.findings.miss((point,), "There is no class that loads a sound.")
        return
    reply = await run.submit(graph)
    run.findings.see(point, "accepted" if reply.job else "refused", reply.outcome())


def _name_form(name: str) -> str:
    for pattern, form in (
        (r"[0-9a-f]{64}\.[a-z0-9]+", "<64 hex>.<ext>"),
        (r"[0-9a-f]{64}", "<64 hex>"),
        (r"blake3:[0-9a-f]{64}\.[a-z0-9]+", "blake3:<64 hex>.<ext>"),
        (r"blake3:[0-9a-f]{64}", "blake3:<64 hex>"),
        (r"[0-9A-Fa-f]{64}\.[A-Za-z0-9]+", "<64 HEX>.<EXT>"),
        (r"probe( \(\d+\))?\.png", "as sent"),
    ):
        if re.fullmatch(pattern, name):
            return form
    return "other"


def _picture(kind: str = "png") -> bytes:
    """Return noise, so that no cache of the account has it."""
    return _saved(Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)), kind)


def _blank(width: int, height: int) -> bytes:
    """Return a large picture of few bytes: one bit for each pixel."""
    return _saved(Image.new("1", (width, height)), "png")


def _saved(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(os.urandom(1600))
    return file.getvalue()


async def downloads(run: ProbeRun, item: dict[str, Any]) -> None:
    """Observe how an output is delivered: the redirect, and the headers of the storage."""
    query = {"filename": str(item.get("filename")), "type": "output"}
    sizes = [
        await run.wire.call("GET", "api/view", query={**query, "res": res})
        for res in ("32", "64", "2000", "abc")
    ]
    kinds = [reply.headers.get("Content-Type", "") for reply in sizes if reply.status == 200]
    statuses = ", ".join(str(reply.status) for reply in sizes)
    run.findings.see("view_res", statuses, ", ".join(kinds))
    reply = await run.wire.call("GET", "api/view", query=query)
    if reply.status == 200:
        run.findings.see("view", "bytes", "No redirect to a storage.")
        return
    place = reply.headers.get("Location")
    if not 300 <= reply.status < 400 or place is None:
        run.findings.see("view", reply.outcome())
        return
    life = re.search(r"max-age=(\d+)", reply.headers.get("Cache-Control", ""))
    run.findings.see(
        "signed_url_life", "max-age" if life else "none", f"{life.group(1)} s" if life else ""
    )
    url = URL(place, encoded=True)
    whole = await run.wire.fetch(url, {})
    run.findings.see("view", "redirect" if whole.status == 200 else f"storage {whole.status}")
    kind = whole.headers.get("Content-Type", "")
    named = "none" if not kind else "octet-stream" if kind.endswith("octet-stream") else ""
    run.findings.see("storage_content_type", named or "of the file", kind)
    part = await run.wire.fetch(url, {"Range": "bytes=0-9"})
    right = part.status == 206 and part.body == whole.body[:10]
    run.findings.see("storage_range", "206" if right else str(part.status))
