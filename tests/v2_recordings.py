"""Recordings of an official v2 server in front of a real ComfyUI: what it told of each job."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from yarl import URL

FOLDER = Path(__file__).parent / "recordings" / "v2"
SCENARIOS = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


@dataclass
class RecordedJob:
    """A job: its graph, the frames of its streams and the readings, by time, and what ComfyUI's
    own history says."""

    id: str
    graph: dict[str, Any]
    happened: list[tuple[str, Any]] = field(default_factory=list)
    cancelled: bool = False
    history: dict[str, Any] | None = None

    @property
    def last(self) -> dict[str, Any] | None:
        """The last reading."""
        readings = [data for kind, data in self.happened if kind == "job"]
        return readings[-1] if readings else None


def lines_of(scenario: str) -> list[dict[str, Any]]:
    """All that was recorded."""
    text = (FOLDER / f"{scenario}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answers_of(scenario: str, method: str, path: str) -> Iterator[tuple[Any, int, Any]]:
    """Yield body, status and answer of the requests of a client to a path."""
    for line in lines_of(scenario):
        if line.get("side") == "v2" and line["kind"] == "http":
            request, response = line["request"], line["response"]
            if (request["method"], request["path"].partition("?")[0]) == (method, path):
                yield request["body"].get("json"), response["status"], response["body"].get("json")


def jobs_of(scenario: str) -> list[RecordedJob]:
    """The jobs that were accepted, in their order."""
    jobs: dict[str, RecordedJob] = {}
    for line in lines_of(scenario):
        if line.get("side") == "history" and line["job"] in jobs:
            jobs[line["job"]].history = line["json"].get(line["job"])
        if line.get("side") != "v2":
            continue
        if line["kind"] == "sse":
            job = jobs.get(line["path"].split("/")[4])
            if job is not None and "event" in line:
                job.happened.append(("frame", (line["event"], _whole(line["data"]))))
        elif line["kind"] == "http":
            _note(jobs, line["request"], line["response"])
    return list(jobs.values())


def _whole(data: dict[str, Any]) -> dict[str, Any]:
    """A frame with a picture of the recorded beginning, since the rest of it was not kept."""
    if (kept := re.search(r"first ([0-9a-f]+)", str(data.get("data_base64")))) is None:
        return data
    return {**data, "data_base64": b64encode(bytes.fromhex(kept[1])).decode()}


def _note(jobs: dict[str, RecordedJob], request: dict[str, Any], response: dict[str, Any]) -> None:
    parts = request["path"].partition("?")[0].split("/")
    answer = (response.get("body") or {}).get("json")
    if request["method"] == "POST" and parts[3:] == ["jobs"] and response["status"] == 201:
        workflow = request["body"]["json"]["workflow"]
        jobs[answer["id"]] = RecordedJob(answer["id"], workflow)
    elif len(parts) > 4 and parts[3] == "jobs" and parts[4] in jobs and response["status"] == 200:
        if parts[5:] == ["cancel"]:
            jobs[parts[4]].cancelled = True
        elif len(parts) == 5 and request["method"] == "GET":
            jobs[parts[4]].happened.append(("job", answer))


@dataclass
class RecordedServer:
    """The official server of a scenario: it answers each request as it has answered the one with
    the same method and path then, in order; the last answer stays."""

    scenario: str
    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    _answers: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in lines_of(self.scenario):
            if line.get("side") == "v2" and line["kind"] == "http":
                request = line["request"]
                path = request["path"].partition("?")[0]
                self._answers.setdefault((request["method"], path), []).append(line["response"])

    def skip(self, method: str, path: str, count: int) -> None:
        """Leave out answers."""
        del self._answers[method, path][:count]

    async def _answer(self, request: web.Request) -> web.Response:
        self.received.append((request.method, request.path, await request.read()))
        known = self._answers.get((request.method, request.path))
        if known is None:
            return web.Response(status=599, text=f"not recorded: {request.path}")
        recorded = known.pop(0) if len(known) > 1 else known[0]
        kept = [(name, value) for name, value in recorded["headers"] if name != "Content-Length"]
        body = recorded["body"]
        text = json.dumps(body["json"]) if "json" in body else body.get("text", "")
        return web.Response(
            status=recorded["status"], body=text.encode(), headers=CIMultiDict(kept)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[URL]:
        """Serve; yield the address."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        server = TestServer(app)
        await server.start_server()
        try:
            yield server.make_url("/")
        finally:
            await server.close()
