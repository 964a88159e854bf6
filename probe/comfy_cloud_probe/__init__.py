"""Measurements of what the documents of Comfy Cloud leave open, with the user's own key.

This module holds a probe from beginning to end, and the level `read`, which only reads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
from msgspec import Struct
from yarl import URL

from comfy_cloud_probe import files, pick, running, v2
from comfy_cloud_probe.points import POINTS, Findings, Level
from comfy_cloud_probe.wire import (
    CALL_TIMEOUT,
    Frame,
    ProbeRun,
    ProbeSocket,
    Reply,
    Wire,
    attempt,
)
from proxy.catalog.owners import LOADERS
from proxy.packs.discovery import PACK_NODES
from proxy.packs.tooling import KRITA_REQUIRES
from proxy.translate.reading import objects_of
from proxy.translate.shapes import choices_of

#: Seconds for all observations: what takes longer is not seen.
DEADLINE = 240.0

#: The same for a deployment, whose first worker may take minutes to start.
DEPLOYMENT_DEADLINE = 600.0

#: Seconds to remove what the probe has made, when all is observed or time is up.
CLEAN_UP = 25.0

#: What the level `run` does, and what it costs, for the person who is asked.
CONSENT = (
    "It uploads a picture, sounds and texts of a few kilobytes, submits about forty workflows that "
    "need no model (some seconds of machine time, usually less than one credit), cancels running "
    "ones, interrupts one if nobody else has jobs, deletes its jobs with their files, and sends "
    "120 reads at the end. The uploads stay in the account's inputs. A deployment gets thirteen "
    "workflows, which start a worker, and uploads of up to 150 MB, which are deleted."
)

#: How long, in seconds, a new socket may take to say what it says without a request.
_GREETING = 2.0

#: A silence, in seconds, after which nothing more is expected of a greeting.
_QUIET = 0.4

#: What Krita AI Diffusion requires of the cloud, where the proxy carries the rest.
_KRITA = {name for names in KRITA_REQUIRES.values() for name in names} - PACK_NODES.keys()


class Target(Struct, frozen=True):
    """A server to probe. `classes` are its node classes, where it does not tell them."""

    base_url: URL
    key: str
    classes: Mapping[str, Any] = {}


async def probe(
    cloud: Target | None, level: Level, *, idle: float, deployment: Target | None = None
) -> Findings:
    """Observe every point of the level, as far as the servers let it be seen, and a socket without
    traffic for `idle` seconds. Never raises for what a server does: a step that fails leaves its
    points unseen."""
    findings = Findings(level, cloud is not None)
    timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=_cookies()) as session:
        if cloud is not None:
            wire = Wire(session, cloud.base_url, cloud.key)
            try:
                async with asyncio.timeout(DEADLINE):
                    await _observe(wire, findings, level, idle)
            except TimeoutError:
                _unseen(findings, f"The probe ended after {DEADLINE:g} seconds.", "deployment_")
            findings.see("rate_limit_headers", ", ".join(sorted(wire.limits)) or "none")
            findings.see("deprecation_headers", ", ".join(sorted(wire.endings)) or "none")
        if deployment is None:
            v2.no_surface(findings, "deployment")
        elif level == "run":
            other = Wire(session, deployment.base_url, deployment.key)
            observing = v2.deployment(other, findings, deployment.classes)
            try:
                async with asyncio.timeout(DEPLOYMENT_DEADLINE):
                    await attempt(findings, observing)
            except TimeoutError:
                _unseen(findings, f"The probe ended after {DEPLOYMENT_DEADLINE:g} seconds.")
    _unseen(findings, "Nothing was seen of it.")
    return findings


def _cookies() -> aiohttp.CookieJar:
    """Return where the pick of a deployment is kept, also for an address without a name."""
    return aiohttp.CookieJar(unsafe=True)


async def _observe(wire: Wire, findings: Findings, level: Level, idle: float) -> None:
    classes: dict[str, Any] = {}
    await attempt(findings, _catalog(wire, findings, classes))
    for step in (_account, _templates, _routes, _sockets):
        await attempt(findings, step(wire, findings))
    usable = findings.value("user") == "200" and findings.value("socket_token") == "open"
    if level == "run" and usable:
        await attempt(findings, _run(wire, findings, classes))
        await attempt(findings, running.idle(wire, findings, idle))
        await attempt(findings, running.burst(wire, findings))


async def _run(wire: Wire, findings: Findings, classes: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        announced = await wire.socket_again()
        stack.push_async_callback(announced.close)
        silent = await wire.socket_again()
        stack.push_async_callback(silent.close)
        run = ProbeRun(wire, findings, classes, announced, silent)
        stack.push_async_callback(lambda: attempt(findings, _clean_up(run)))
        await announced.announce()
        await announced.quiet(0.3, 2.0)
        for step in (
            files.uploads,
            running.main,
            running.refusals,
            running.annotated,
            running.failure,
            running.cancels,
            running.interrupts,
            running.v2,
            pick.observe,
            v2.cloud,
        ):
            await attempt(findings, step(run))


async def _clean_up(run: ProbeRun) -> None:
    async with asyncio.timeout(CLEAN_UP):
        await running.clean_up(run)


def _unseen(findings: Findings, why: str, later: str = "") -> None:
    """Say why points were not seen; those that begin with `later` are still to come."""
    failed = (
        f" Failures: {', '.join(dict.fromkeys(findings.failures))}." if findings.failures else ""
    )
    missing = [point.id for point in POINTS if point.id not in findings.observed]
    if later:
        missing = [id_ for id_ in missing if not id_.startswith(later)]
    findings.miss(missing, f"{why}{failed}")


# --- the level `read` ----------------------------------------------------------------------


async def _account(wire: Wire, findings: Findings) -> None:
    """Observe whether the key works, and what the account says of itself without a job."""
    findings.see("health", (await wire.call("GET", "health")).outcome())
    findings.see("user", (await wire.call("GET", "api/user")).outcome())
    findings.see("bearer_key", (await wire.call("GET", "api/user", bearer=True)).outcome())
    features = await wire.call("GET", "api/features")
    body = features.dict()
    findings.see("features", "object" if body else features.outcome(), ", ".join(sorted(body)))
    size = body.get("max_upload_size", "absent")
    findings.see("max_upload_size", str(size) if isinstance(size, int | str) else "not a number")
    stats = (await wire.call("GET", "api/system_stats")).dict()
    kept = [name for name in ("system", "devices") if name in stats]
    findings.see("system_stats", " and ".join(kept) or "neither system nor devices")
    limit = body.get("max_concurrent_jobs", "absent")
    findings.see("max_concurrent_jobs", str(limit) if isinstance(limit, int | str) else "no number")
    await _billing(wire, findings)
    unknown = await wire.call("GET", f"api/v2/jobs/{uuid4()}", bearer=True)
    findings.see("v2_jobs", f"{unknown.status} {unknown.form()}".strip())


async def _billing(wire: Wire, findings: Findings) -> None:
    """Observe which routes of money and of the workspace accept a key. Names of fields are noted,
    no amounts."""
    for name in ("status", "balance", "events", "usage", "capabilities"):
        reply = await wire.call("GET", f"api/billing/{name}")
        findings.see(f"billing_{name}", reply.outcome(), ", ".join(sorted(reply.dict())))
    reply = await wire.call("GET", "api/workspaces/current")
    findings.see("workspace", reply.outcome(), ", ".join(sorted(reply.dict())))
    if not isinstance(id_ := reply.dict().get("id"), str):
        findings.see("deployments", "unknown workspace")
        return
    reply = await wire.call("GET", f"api/workspaces/{quote(id_, safe='')}/deployments")
    has_default = bool(reply.dict().get("default_deployment_id"))
    findings.see("deployments", reply.outcome(), "with a default" if has_default else "no default")


async def _user_models(wire: Wire, findings: Findings, classes: dict[str, Any]) -> None:
    """Observe what the parameter adds, how long both requests take, and whether other lists have
    the models too."""
    reply = await wire.call("GET", "api/object_info", query={"include_user_models": "true"})
    known = {name: _names(classes.get(name)) for names in LOADERS.values() for name, _ in names}
    added = {
        folder: {
            model
            for name, _ in loaders
            for model in _names(reply.dict().get(name)) - known.get(name, set())
        }
        for folder, loaders in LOADERS.items()
    }
    count = sum(map(len, added.values()))
    findings.see("user_models", "some" if count else "none", f"{count} in {reply.seconds:.1f} s")
    assets = await wire.call("GET", "api/assets", query={"include_tags": "models", "limit": "1"})
    findings.see("model_assets", assets.outcome())
    if not count:
        findings.see("user_models_listed", "no names to compare")
        return
    folder, names = next((folder, names) for folder, names in added.items() if names)
    listed = await wire.call("GET", f"api/experiment/models/{folder}")
    has_them = names <= {str(model["name"]) for model in listed.named()}
    findings.see("user_models_listed", "yes" if has_them else "no")


def _names(info: object) -> set[str]:
    """Return the values that the inputs of a class offer."""
    return {value for _, offered in choices_of(info) for value in offered if isinstance(value, str)}


async def _catalog(wire: Wire, findings: Findings, classes: dict[str, Any]) -> None:
    """Observe the node classes, which are added to `classes`, and the models."""
    reply = await wire.call("GET", "api/object_info")
    classes |= {name: info for name, info in reply.dict().items() if isinstance(info, dict)}
    findings.see(
        "object_info", "classes" if classes else reply.outcome(), f"{len(classes)} classes"
    )
    findings.catalog = dict(Counter(_pack(info) for info in classes.values()))
    if classes:
        lacking = _KRITA - classes.keys()
        share = "all" if not lacking else "none" if lacking == _KRITA else "some"
        findings.see("krita_nodes", share, f"{len(lacking)} are missing")
        reply = await wire.call("GET", f"api/object_info/{next(iter(classes))}")
        findings.see("object_info_class", str(reply.status))
    await _user_models(wire, findings, classes)
    await _models(wire, findings)


async def _models(wire: Wire, findings: Findings) -> None:
    folders = await wire.call("GET", "api/experiment/models")
    known = folders.named()
    findings.see("model_folders", _keys(known, "name", "folders") or folders.outcome())
    for folder in known:
        files = await wire.call("GET", f"api/experiment/models/{folder['name']}")
        models = files.named()
        if files.status == 200 and models:
            findings.see("model_files", _keys(models, "name", "pathIndex"))
            path = f"{folder['name']}/{models[0].get('pathIndex', 0)}/{models[0]['name']}"
            preview = await wire.call("GET", f"api/experiment/models/preview/{path}")
            _see_picture(findings, "model_preview", preview)
            return
    findings.miss(("model_files", "model_preview"), "No folder of models has a file.")


async def _templates(wire: Wire, findings: Findings) -> None:
    """Observe whether the pictures of workflow templates are public."""
    listed = (await wire.call("GET", "templates/index.json")).json()
    names = [
        template["name"]
        for group in objects_of(listed)
        for template in objects_of(group.get("templates"))
        if template.get("mediaSubtype") == "webp"
    ]
    if not names:
        findings.miss(("template_picture",), "There is no list of templates.")
        return
    picture = await wire.call("GET", f"templates/{names[0]}-1.webp")
    _see_picture(findings, "template_picture", picture)


def _see_picture(findings: Findings, point: str, reply: Reply) -> None:
    kind = reply.headers.get("Content-Type", "")
    is_picture = kind.startswith("image/")
    findings.see(point, "picture" if is_picture else str(reply.status), kind if is_picture else "")


async def _routes(wire: Wire, findings: Findings) -> None:
    """Observe routes that exist, do not exist, or answer in one of several forms."""
    findings.see("local_history", str((await wire.call("GET", "api/history")).status))
    history = await wire.call("GET", "api/history_v2", query={"max_items": "1"})
    listed = isinstance(history.dict().get("history"), list)
    findings.see("history_v2", "history list" if listed else history.outcome())
    local = ("api/i18n", "api/embeddings", "internal/logs")
    statuses = [str((await wire.call("GET", path)).status) for path in local]
    findings.see("local_routes", ", ".join(dict.fromkeys(statuses)))
    unknown = await wire.call("GET", f"api/jobs/{uuid4()}")
    findings.see("unknown_job", f"{unknown.status} {unknown.form()}".strip())


async def _sockets(wire: Wire, findings: Findings) -> None:
    """Observe the handshake, the first messages, and how many sockets may be open."""
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
    unasked = any(map(_has_flags, socket.frames))
    await socket.announce()
    if not unasked:
        await socket.until(lambda frames: any(map(_has_flags, frames)), _GREETING)
    flags = [frame.data for frame in socket.frames if _has_flags(frame)]
    findings.see("feature_flags", "pushed" if unasked else "asked" if flags else "never")
    flag = flags[-1].get("supports_progress_text_metadata") if flags else None
    findings.see("text_flag", "absent" if flag is None else str(flag).lower())


def _has_flags(frame: Frame) -> bool:
    return frame.type == "feature_flags"


def _pack(node_class: dict[str, Any]) -> str:
    """Return the node pack of a class: `core`, or the name of its folder."""
    module = str(node_class.get("python_module", ""))
    if module.startswith("custom_nodes."):
        return module.split(".")[1]
    return "core"


def _keys(items: list[dict[str, Any]], *wanted: str) -> str:
    return " and ".join(name for name in wanted if items and name in items[0])
