"""The level `read`: only looks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import aiohttp

from proxy.probe.points import Findings
from proxy.probe.wire import ProbeSocket, Reply, Wire
from proxy.translate.helper_packs import HELPERS
from proxy.translate.helper_tooling import KRITA_REQUIRES

#: How long, in seconds, a new socket may take to say what it says without a request.
_GREETING = 2.0

#: A silence, in seconds, after which nothing more is expected of a greeting.
_QUIET = 0.4

#: What Krita AI Diffusion requires of the cloud, where the proxy carries the rest.
_KRITA = {name for names in KRITA_REQUIRES.values() for name in names} - HELPERS.keys()


async def account(wire: Wire, findings: Findings) -> None:
    """Whether the key works, and what the account is told without asking for a job."""
    findings.see("health", (await wire.call("GET", "health")).said())
    findings.see("user", (await wire.call("GET", "api/user")).said())
    findings.see("bearer_key", (await wire.call("GET", "api/user", bearer=True)).said())
    features = await wire.call("GET", "api/features")
    body = features.dict()
    findings.see("features", "object" if body else features.said(), ", ".join(sorted(body)))
    size = body.get("max_upload_size", "absent")
    findings.see("max_upload_size", str(size) if isinstance(size, int | str) else "not a number")
    stats = (await wire.call("GET", "api/system_stats")).dict()
    kept = [name for name in ("system", "devices") if name in stats]
    findings.see("system_stats", " and ".join(kept) or "neither system nor devices")
    for id_, path in (("billing_status", "status"), ("billing_balance", "balance")):
        findings.see(id_, (await wire.call("GET", f"api/billing/{path}")).said())
    unknown = await wire.call("GET", f"api/v2/jobs/{uuid4()}", bearer=True)
    findings.see("v2_jobs", f"{unknown.status} {form_of(unknown)}".strip())


async def catalog(wire: Wire, findings: Findings) -> dict[str, Any]:
    """The node classes, which are returned, and the models."""
    reply = await wire.call("GET", "api/object_info")
    classes = {name: one for name, one in reply.dict().items() if isinstance(one, dict)}
    findings.see("object_info", "classes" if classes else reply.said(), f"{len(classes)} classes")
    findings.catalog = dict(Counter(_pack(one) for one in classes.values()))
    if classes:
        lacking = _KRITA - classes.keys()
        share = "all" if not lacking else "none" if lacking == _KRITA else "some"
        findings.see("krita_nodes", share, f"{len(lacking)} are missing")
        one = await wire.call("GET", f"api/object_info/{next(iter(classes))}")
        findings.see("object_info_class", str(one.status))
    await _models(wire, findings)
    return classes


async def _models(wire: Wire, findings: Findings) -> None:
    folders = await wire.call("GET", "api/experiment/models")
    known = [one for one in folders.json() or [] if isinstance(one, dict) and "name" in one]
    findings.see("model_folders", _keys(known, "name", "folders") or folders.said())
    for folder in known:
        files = await wire.call("GET", f"api/experiment/models/{folder['name']}")
        models = [one for one in files.json() or [] if isinstance(one, dict) and "name" in one]
        if files.status == 200 and models:
            findings.see("model_files", _keys(models, "name", "pathIndex"))
            path = f"{folder['name']}/{models[0].get('pathIndex', 0)}/{models[0]['name']}"
            preview = await wire.call("GET", f"api/experiment/models/preview/{path}")
            kind = preview.headers.get("Content-Type", "")
            seen = "picture" if kind.startswith("image/") else str(preview.status)
            findings.see("model_preview", seen, kind if seen == "picture" else "")
            return
    findings.miss(("model_files", "model_preview"), "No folder of models has a file.")


async def templates(wire: Wire, findings: Findings) -> None:
    """Whether the pictures of workflow templates are there for everybody."""
    listed = (await wire.call("GET", "templates/index.json")).json()
    names = [
        one["name"]
        for group in (listed if isinstance(listed, list) else [])
        if isinstance(group, dict)
        for one in group.get("templates", [])
        if isinstance(one, dict) and one.get("mediaSubtype") == "webp"
    ]
    if not names:
        findings.miss(("template_picture",), "There is no list of templates.")
        return
    picture = await wire.call("GET", f"templates/{names[0]}-1.webp")
    kind = picture.headers.get("Content-Type", "")
    seen = "picture" if kind.startswith("image/") else str(picture.status)
    findings.see("template_picture", seen, kind if seen == "picture" else "")


async def routes(wire: Wire, findings: Findings) -> None:
    """Routes that exist, do not exist, or answer in one of several forms."""
    findings.see("local_history", str((await wire.call("GET", "api/history")).status))
    history = await wire.call("GET", "api/history_v2", query={"max_items": "1"})
    listed = isinstance(history.dict().get("history"), list)
    findings.see("history_v2", "history list" if listed else history.said())
    local = ("api/i18n", "api/embeddings", "internal/logs")
    statuses = [str((await wire.call("GET", path)).status) for path in local]
    findings.see("local_routes", ", ".join(dict.fromkeys(statuses)))
    unknown = await wire.call("GET", f"api/jobs/{uuid4()}")
    findings.see("unknown_job", f"{unknown.status} {form_of(unknown)}".strip())
    absent = await wire.call("GET", f"api/settings/comfy-cloud-proxy.{uuid4()}")
    findings.see("settings_absent", str(absent.status))
    listing = await wire.call("GET", "api/userdata", query={"dir": "workflows"})
    findings.see("userdata_dir", str(listing.status))


async def sockets(wire: Wire, findings: Findings) -> None:
    """The handshake, the first messages, and how many sockets are let in."""
    opened: list[ProbeSocket] = []
    try:
        findings.see("socket_header", await _handshake(wire, opened, header=True))
        while opened:
            await opened.pop().close()
        findings.see("socket_token", await _handshake(wire, opened))
        if not opened:
            return
        first = opened[0]
        await first.quiet(_QUIET, _GREETING)
        await _flags(first, findings)
        for _ in range(2):
            await _handshake(wire, opened)
        findings.see("socket_cap", f"{len(opened)} open")
    finally:
        await asyncio.gather(*(socket.close() for socket in opened))


async def _handshake(wire: Wire, opened: list[ProbeSocket], *, header: bool = False) -> str:
    try:
        opened.append(await wire.socket(header=header))
    except aiohttp.WSServerHandshakeError as error:
        return f"refused {error.status}"
    return "open"


async def _flags(socket: ProbeSocket, findings: Findings) -> None:
    if socket.frames:
        first = socket.frames[0]
        has_sid = isinstance(first.data, dict) and "sid" in first.data
        findings.see("first_frame", f"{first.type} with sid" if has_sid else first.type)
    unasked = [frame for frame in socket.frames if frame.type == "feature_flags"]
    await socket.announce()
    if not unasked:
        await socket.until(lambda frames: frames[-1:] != [] and _has_flags(socket), _GREETING)
    flags = [frame.data for frame in socket.frames if frame.type == "feature_flags"]
    findings.see("feature_flags", "pushed" if unasked else "asked" if flags else "never")
    told = flags[-1].get("supports_progress_text_metadata") if flags else None
    findings.see("text_flag", "absent" if told is None else str(told).lower())


def _has_flags(socket: ProbeSocket) -> bool:
    return any(frame.type == "feature_flags" for frame in socket.frames)


def _pack(node_class: dict[str, Any]) -> str:
    """The node pack of a class: `core`, or the name of its folder."""
    module = str(node_class.get("python_module", ""))
    if module.startswith("custom_nodes."):
        return module.split(".")[1]
    return "core"


def _keys(items: list[dict[str, Any]], *wanted: str) -> str:
    return " and ".join(name for name in wanted if items and name in items[0])


def form_of(reply: Reply) -> str:
    """The form of an error: `code and message`, `error`, or nothing."""
    body = reply.dict()
    if "error" in body:
        return "error and node_errors" if "node_errors" in body else "error"
    return "code and message" if {"code", "message"} <= body.keys() else ""
