"""The streams of events of a deployment: one for each job that runs there.

A stream may end early, stay silent or not come about: nothing depends on it. The jobs are read
beside it, and a reading decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from proxy.cloud.connections import CONNECT_TIMEOUT, CONNECTION_ERRORS
from proxy.cloud.errors import CloudError, CloudGarbage, CloudRefused
from proxy.cloud.http import Http, unreachable
from proxy.cloud.observer import Observer
from proxy.cloud.v2.sse import FrameParser, OversizedFrameError, StreamFrame
from proxy.logging import FailureLines, public_word
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.runtime.waits import stop
from proxy.translate import codec, media_types
from proxy.translate.codec import redact
from proxy.translate.frames import CloudPicture
from proxy.translate.snapshots import Snapshot
from proxy.translate.v2.runs import Observation, ObservedEvent, RunObserver

log = structlog.get_logger(__name__)

#: Seconds without a byte after which a stream is given up: a comment comes every 15.
SILENCE = 45.0
#: Between two attempts to open a stream, and the seconds that one must last for a short delay.
_AGAIN, _MIN_STABLE = Backoff(0.5, 15.0), 5.0
#: Bytes of frames that are taken before others go on.
_PIECE = 4096
#: Maximum values of the data of a frame.
_MAX_VALUES = 100_000
#: Statuses after which no stream of the job, or of the deployment, will come.
_NO_JOB, _NO_STREAMS = 404, frozenset({405, 501})


@dataclass(eq=False, repr=False)
class JobStreams:
    """The streams of the followed jobs: an `EventFeed`.

    `http` must not hold back other calls. `read` reads a job and gives what it says to `deliver`.
    """

    http: Http
    read: Callable[[str], Awaitable[Snapshot | None]]
    observer: Observer
    runs: dict[str, RunObserver] = field(default_factory=dict)
    refused: int | None = None
    _offered: bool = field(init=False, default=True)
    _over: set[str] = field(init=False, default_factory=set)
    _streams: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _group: asyncio.TaskGroup | None = field(init=False, default=None)
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    _ready: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _lines: FailureLines = field(init=False, default_factory=FailureLines)

    @property
    def connected(self) -> bool:
        """Whether the key opens streams. A single one that is lost is opened again, and its job is
        read meanwhile."""
        return self.refused is None

    async def start(self) -> None:
        """Begin to observe the followed jobs."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="streams of a deployment")
            await self._ready.wait()

    async def close(self) -> None:
        """Close all streams."""
        if self._task is not None:
            await stop(self._task)
            self._task = None
            self._ready.clear()

    async def use_key(self, key: str) -> None:
        """Open the streams again with another key, which the client has already."""
        del key
        self.refused = None
        for cloud_id in [*self.runs]:
            self._close(cloud_id)
            self._begin(cloud_id)

    async def wait_connected(self, timeout: float) -> bool:
        """Return that events would come: a stream is opened for each job that is sent."""
        del timeout
        return True

    def follow(self, cloud_id: str, graph: Mapping[str, Any]) -> None:
        """Open the stream of a job."""
        self.runs[cloud_id] = RunObserver(cloud_id, graph)
        self._begin(cloud_id)

    def leave(self, cloud_id: str) -> None:
        """Close the stream of a job."""
        self._close(cloud_id)
        self.runs.pop(cloud_id, None)
        self._over.discard(cloud_id)

    def deliver(
        self, cloud_id: str, job: Mapping[str, Any], texts: Mapping[str, str], began: int
    ) -> None:
        """Pass on what a reading of a followed job shows of its nodes; see `RunObserver.reading`
        for `began`."""
        if (run := self.runs.get(cloud_id)) is not None:
            self._pass_on(run.reading(job, texts, began=began))

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._ready.set()
                for cloud_id in self.runs:
                    self._begin(cloud_id)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._streams.clear()

    def _begin(self, cloud_id: str) -> None:
        if self._group is not None and self._offered and cloud_id not in self._over:
            run = self.runs[cloud_id]
            task = self._group.create_task(self._driven(run), name=f"stream of {cloud_id}")
            self._streams[cloud_id] = task

    def _close(self, cloud_id: str) -> None:
        task = self._streams.pop(cloud_id, None)
        if task is not None:
            task.cancel()

    async def _driven(self, run: RunObserver) -> None:
        await self.observer.driver.drive(self._observe(run))

    async def _observe(self, run: RunObserver) -> None:
        """Keep a job's stream open until it reports the end, or it cannot be opened at all."""
        failures = 0
        while self._offered:
            opened, wait = clock.monotonic(), 0.0
            try:
                await self._listen(run)
            except CloudRefused as error:
                wait = error.retry_after or 0.0
                self.refused = error.status if error.status in (401, 403) else None
                if error.status in _NO_STREAMS:
                    self._offered = False
                if (more := self._lines.due("stream_refused")) is not None:
                    fields = {"cloud_job": run.cloud_id, "status": error.status, **more}
                    log.info("stream_refused", **fields)
                if error.status == _NO_JOB:
                    return
            except (CloudError, OversizedFrameError) as error:
                if (more := self._lines.due("stream_lost")) is not None:
                    log.info("stream_lost", cloud_job=run.cloud_id, error=str(error), **more)
            except Exception:
                log.exception("stream_failed", cloud_job=run.cloud_id)
            if run.cloud_id not in self._over:
                await self._read_instead(run.cloud_id)
            if run.cloud_id in self._over:
                return
            failures = 1 if clock.monotonic() - opened >= _MIN_STABLE else failures + 1
            await asyncio.sleep(max(wait, _AGAIN.after(failures)))

    async def _read_instead(self, cloud_id: str) -> None:
        """Read a job whose stream was lost."""
        with suppress(CloudError):
            if (snapshot := await self.read(cloud_id)) is not None:
                self._pass_on([snapshot])

    async def _listen(self, run: RunObserver) -> None:
        """Open a stream and take its frames until it ends. Raises `CloudError`."""
        call = self.http.call("GET", "v2/jobs/{id}/events", id=run.cloud_id)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE)
        accept = {"Accept": "text/event-stream"}
        response = await self.http.open(call, headers=accept, timeout=timeout)
        try:
            kind = media_types.essence(response.headers.get("Content-Type", ""))
            if response.status != 200 or kind != "text/event-stream":
                raise CloudGarbage(f"{call}: not a stream of events")
            self.refused = None
            self._lines.ended("stream_refused")
            self._lines.ended("stream_lost")
            parser = FrameParser()
            async for data in response.content.iter_any():
                self.http.monitor.contact.answered(clock.monotonic())
                for start in range(0, len(data), _PIECE):
                    await self.observer.driver.give_way()
                    for frame in parser.feed(data[start : start + _PIECE]):
                        await self._receive(run, frame)
                        if run.cloud_id in self._over:
                            return
        except CONNECTION_ERRORS as error:
            raise unreachable(call, error, sent=True) from None
        finally:
            response.close()

    async def _receive(self, run: RunObserver, frame: StreamFrame) -> None:
        if codec.breadth(frame.data) > _MAX_VALUES:
            return
        try:
            data = codec.loads_text(frame.data)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            self.http.observations.add_anomaly("frame", f"{public_word(frame.type)}: not an object")
            return
        key = self.http.key.text
        self._pass_on(run.frame(frame.type, redact(data, key) if key in frame.data else data))
        if run.wants_reading:
            with suppress(CloudError):
                await self.read(run.cloud_id)
            if run.wants_reading:
                self._pass_on(run.reading(None))

    def _pass_on(self, observations: list[Observation]) -> None:
        for observation in observations:
            match observation:
                case ObservedEvent(type=type_, data=data):
                    self.observer.on_event(type_, data)
                case CloudPicture():
                    self.observer.on_frame(observation)
                case Snapshot():
                    if observation.ended:
                        self._over.add(observation.cloud_id)
                    self.observer.on_snapshot(observation)
