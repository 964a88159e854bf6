"""The jobs of the level `run`: small workflows without a model, about a second each, their files,
and what their messages say about the open points."""

from __future__ import annotations

import io
import os
import re
import struct
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from blake3 import blake3
from PIL import Image
from yarl import URL

from proxy.probe.points import Findings
from proxy.probe.wire import Frame, Graph, ProbeRun, Reply

#: Where the saved files go, in the user's own outputs.
PREFIX = "comfy-cloud-proxy-probe/probe"

#: Edge of the pictures of the slow graph, and how often they are scaled: some seconds of work.
_LARGE = 4096
_STEPS = 60

#: Kinds of picture beside PNG.
_KINDS = ("jpeg", "webp")

_PLAIN_PREVIEW, _TEXT, _METADATA_PREVIEW = 1, 3, 4

#: The fields of `progress_state` that only ComfyUI's own have.
_FULL = {"value", "max", "state"}


# --- workflows ------------------------------------------------------------------------------


def whole(upload: str, classes: Mapping[str, Any]) -> Graph:
    """Return a graph with a picture in, and a picture, a video, previews and a progress text out,
    as far as the classes exist."""
    graph = {
        "1": _node("LoadImage", image=upload),
        "2": _node("ImageInvert", image=["1", 0]),
        "3": _node("SaveImage", images=["2", 0], filename_prefix=PREFIX),
        "4": _node("SaveImageWebsocket", images=["2", 0]),
        "5": _node("GetImageSize", image=["2", 0]),
        "6": _node("PreviewAny", source=["5", 0]),
        "7": _node("CreateVideo", images=["2", 0], fps=8.0),
        "8": _node(
            "SaveVideo", video=["7", 0], filename_prefix=PREFIX, format="auto", codec="auto"
        ),
    }
    return _possible(graph, classes)


def failing(classes: Mapping[str, Any]) -> Graph:
    """Return a graph that is valid and fails when it runs: the pattern is no regular expression."""
    return _possible(
        {
            "1": _node("RegexReplace", string="a", regex_pattern="(", replace="b"),
            "2": _node("PreviewAny", source=["1", 0]),
        },
        classes,
    )


def slow(classes: Mapping[str, Any]) -> Graph:
    """Return a graph of some seconds of work that no cache has."""
    graph = {"1": _node("EmptyImage", width=_LARGE, height=_LARGE, batch_size=1, color=_shade())}
    for step in range(2, _STEPS + 2):
        size = {"width": _LARGE - step % 2, "height": _LARGE - step % 2}
        scaled = {"image": [str(step - 1), 0], "upscale_method": "lanczos", "crop": "disabled"}
        graph[str(step)] = _node("ImageScale", **scaled, **size)
    graph["99"] = _node("PreviewImage", images=[str(_STEPS + 1), 0])
    return _possible(graph, classes)


def tiny() -> Graph:
    """Return a graph of a small picture that no cache has."""
    return {
        "1": _node("EmptyImage", width=64, height=64, batch_size=1, color=_shade()),
        "2": _node("PreviewImage", images=["1", 0]),
    }


def annotated(upload: str) -> Graph:
    """Return a graph that names the upload with its folder, as local clients do."""
    return {
        "1": _node("LoadImage", image=f"{upload} [input]"),
        "2": _node("PreviewImage", images=["1", 0]),
    }


def sound(name: str, classes: Mapping[str, Any]) -> Graph:
    """Return a graph that loads a sound and shows it."""
    return _possible(
        {"1": _node("LoadAudio", audio=name), "2": _node("PreviewAudio", audio=["1", 0])}, classes
    )


def invalid() -> Graph:
    """Return a graph with a node without its required input: nothing of it can run."""
    return {"1": _node("PreviewImage")}


def partly_valid() -> Graph:
    """Return a graph with one output that can run and one that cannot."""
    return {**tiny(), "3": _node("PreviewImage")}


def _shade() -> int:
    """Return any colour."""
    return int.from_bytes(os.urandom(3))


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _possible(graph: Graph, classes: Mapping[str, Any]) -> Graph:
    """Return the nodes whose classes the catalog has, and whose sources exist too."""
    kept: Graph = {}
    for node_id, node in graph.items():
        sources = [value[0] for value in node["inputs"].values() if isinstance(value, list)]
        if node["class_type"] in classes and all(source in kept for source in sources):
            kept[node_id] = node
    return kept


# --- files ---------------------------------------------------------------------------------


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
    graph = sound(name, run.classes)
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


# --- messages ------------------------------------------------------------------------------


def of_job(findings: Findings, job: str, frames: Sequence[Frame], silent: Sequence[Frame]) -> None:
    """Observe a job that succeeded, on a socket with flags and on one without."""
    see = findings.see
    ours = [frame for frame in frames if frame.job == job]
    types = [frame.type for frame in ours]
    whole = "execution_start" in types and "execution_success" in types
    see("job_events", "execution_start to execution_success" if whole else "incomplete")
    see("cached_when_empty", "sent" if "execution_cached" in types else "not sent")
    _timestamps(findings, ours)
    _progress_state(findings, ours)
    _order(findings, ours, frames)
    see("notifications", "sent" if any(f.type == "notification" for f in frames) else "not sent")
    foreign = any(frame.type.startswith(("asset_", "agent_")) for frame in frames)
    see("foreign_messages", "sent" if foreign else "not sent")
    _executed(findings, ours)
    _previews(findings, job, frames, silent)
    _texts(findings, job, frames, silent)


def of_repetition(findings: Findings, job: str, frames: Sequence[Frame]) -> None:
    """Observe whether the nodes of the same graph ran again."""
    cached = [f for f in frames if f.type == "execution_cached" and f.job == job]
    nodes = cached[0].data.get("nodes") if cached else []
    findings.see("cache", "reused" if nodes else "run again")


def of_failure(findings: Findings, job: str, frames: Sequence[Frame]) -> None:
    """Observe a job that failed in a node with a Python exception."""
    for frame in frames:
        if frame.type == "execution_error" and frame.job == job:
            findings.see("error_node", "named" if frame.data.get("node_id") else "not named")
            kind = str(frame.data.get("exception_type"))
            python = bool(re.search(r"(PatternError|\berror|re\.error)$", kind))
            findings.see("exception_type", "python" if python else "cloud", kind)


def of_cancel(findings: Findings, id_: str, job: str, frames: Sequence[Frame]) -> None:
    """Observe a job that was cancelled."""
    types = [frame.type for frame in frames if frame.job == job]
    announced = "execution_interrupted" in types
    findings.see(id_, "execution_interrupted" if announced else "none")


def _timestamps(findings: Findings, ours: Sequence[Frame]) -> None:
    started = [frame.data for frame in ours if frame.type.startswith("execution_")]
    at = next((data["timestamp"] for data in started if "timestamp" in data), None)
    if at is None:
        findings.see("timestamps", "absent")
    elif isinstance(at, int | float):
        findings.see("timestamps", "milliseconds" if at > 1e11 else "seconds")
    else:
        findings.see("timestamps", "no number")


def _progress_state(findings: Findings, ours: Sequence[Frame]) -> None:
    states = [frame.data.get("nodes") for frame in ours if frame.type == "progress_state"]
    nodes = [node for state in states if isinstance(state, dict) for node in state.values()]
    full = any(isinstance(node, dict) and node.keys() >= _FULL for node in nodes)
    findings.see("progress_state", "full" if full else "documented" if nodes else "not sent")


def _order(findings: Findings, ours: Sequence[Frame], frames: Sequence[Frame]) -> None:
    end = next((frame for frame in ours if frame.type == "execution_success"), None)
    if end is None:
        return
    place = {id(frame): index for index, frame in enumerate(frames)}
    last_node = [f for f in ours if f.type == "executing" and f.data.get("node") is not None]
    nulls = [f for f in ours if f.type == "executing" and f.data.get("node") is None]
    after = place[id(last_node[-1])] if last_node else -1
    statuses = [f for f in frames if f.type == "status" and place[id(f)] > after]
    for id_, found in (("executing_null", nulls), ("final_status", statuses)):
        if not found:
            findings.see(id_, "not sent")
        else:
            is_after = place[id(found[-1])] > place[id(end)]
            findings.see(id_, "after" if is_after else "before")


def _executed(findings: Findings, ours: Sequence[Frame]) -> None:
    for frame in ours:
        output = frame.data.get("output") if frame.type == "executed" else None
        images = output.get("images") if isinstance(output, dict) else None
        if images and isinstance(images[0], dict) and images[0].get("type") == "output":
            name = str(images[0].get("filename"))
            hashed = re.match(r"(blake3:)?[0-9a-fA-F]{32,}", name)
            findings.see("executed_names", "hash" if hashed else "display")
            has_name = "display_name" in images[0]
            findings.see("executed_display_name", "present" if has_name else "absent")
            return


def _previews(
    findings: Findings, job: str, frames: Sequence[Frame], silent: Sequence[Frame]
) -> None:
    announced = _pictures(frames, job)
    if not announced:
        findings.see("preview", "none")
        return
    kind, image = announced[0]
    findings.see("preview", kind)
    try:
        with Image.open(io.BytesIO(image)) as picture:
            findings.see("preview_format", str(picture.format).lower())
    except OSError:
        findings.see("preview_format", "no picture")
    others = _pictures(silent, job)
    same = bool(others) and others[0][0] == kind
    findings.see("preview_flags", "the same" if same else others[0][0] if others else "none")


def _pictures(frames: Sequence[Frame], job: str) -> list[tuple[str, bytes]]:
    """Return previews of the job; those without its id are counted too, for nobody else is
    probing."""
    found = []
    for data in _binary(frames):
        kind, rest = struct.unpack(">I", data[:4])[0], data[4:]
        if kind == _PLAIN_PREVIEW:
            found.append(("type 1", rest[4:]))
        elif kind == _METADATA_PREVIEW and len(rest) >= 4:
            length = struct.unpack(">I", rest[:4])[0]
            about = rest[4 : 4 + length]
            if job.encode() in about:
                typed = b'"image_type"' in about
                found.append(("type 4 with image_type" if typed else "type 4", rest[4 + length :]))
    return found


def _texts(findings: Findings, job: str, frames: Sequence[Frame], silent: Sequence[Frame]) -> None:
    announced, unannounced = (_names_job(frames, job) for frames in (frames, silent))
    if announced:
        if_announced = " if announced" if unannounced is False else ""
        findings.see("text_frames", f"with job id{if_announced}")
    else:
        findings.see("text_frames", "none" if announced is None else "without job id")


def _names_job(frames: Sequence[Frame], job: str) -> bool | None:
    """Return whether progress texts name their job; `None` without any."""
    texts = [data for data in _binary(frames) if struct.unpack(">I", data[:4])[0] == _TEXT]
    return any(job.encode() in data for data in texts) if texts else None


def _binary(frames: Sequence[Frame]) -> list[bytes]:
    return [
        f.data
        for f in frames
        if f.type == "binary" and isinstance(f.data, bytes) and len(f.data) >= 8
    ]
