"""What is observed of API v2's streams of events, and of its limits."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

import aiohttp

from comfy_cloud_probe import workflows
from comfy_cloud_probe.surface import ENDED, V2Surface, outcome
from comfy_cloud_probe.wire import Reply
from proxy.cloud.v2.sse import FrameParser
from proxy.translate import codec
from proxy.translate.reading import object_of

#: Seconds for which a stream is read after the end of its job, and those that count as at once.
_SILENCE, _AT_ONCE = 20.0, 2.0
#: Bytes of a stream.
_STREAM_BYTES = 4 * 1024 * 1024
#: Streams that are opened at once, and reads that show whether many are too many.
_STREAMS, _READS, _AT_A_TIME = 12, 60, 10


@dataclass(slots=True)
class StreamWatch:
    """What a stream has shown. `end` is how long it stays open behind the end of its job."""

    seen: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    late: int = 0
    early: int = 0
    ended_at: float | None = None
    end: str = "no end"
    refusal: str = ""

    def take(self, type_: str, data: dict[str, object]) -> None:
        """Take a frame."""
        self.seen.add(type_[:20])
        if type_ == "progress":
            self.named |= {name[:20] for name, value in data.items() if value is not None}
        elif type_ == "output" and self.ended_at is None:
            self.early += 1
        elif type_ == "output":
            self.late += 1
        elif type_ == "status" and data.get("status") in ENDED:
            self.ended_at = time.monotonic()

    @property
    def types(self) -> str:
        """The types of the frames, or why there are none."""
        return self.refusal or ", ".join(sorted(self.seen)) or "nothing"

    @property
    def fields(self) -> str:
        """The fields of a progress that have had a value."""
        return ", ".join(sorted(self.named)) or "none"

    @property
    def order(self) -> str:
        """Whether outputs come before the last status or after it."""
        words = ("before the end" if self.early else "", "after the end" if self.late else "")
        return " and ".join(filter(None, words)) or "no outputs"


async def watched(surface: V2Surface, job: str) -> StreamWatch:
    """Return what the stream of a job shows until it closes, at most some time behind its end."""
    watch = StreamWatch()
    try:
        async with asyncio.timeout(surface.patience), _opened(surface, job) as answer:
            if answer.status != 200:
                watch.refusal = watch.end = str(answer.status)
                return watch
            await _read(surface, answer, watch)
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        watch.end = "lost" if isinstance(error, aiohttp.ClientError) else watch.end
    return watch


async def _read(surface: V2Surface, answer: aiohttp.ClientResponse, watch: StreamWatch) -> None:
    parser, read = FrameParser(), 0
    while read < _STREAM_BYTES:
        left = None if watch.ended_at is None else watch.ended_at + _SILENCE - time.monotonic()
        try:
            received = await asyncio.wait_for(answer.content.readany(), left)
        except TimeoutError:
            watch.end = f"open for {_SILENCE:g} s"
            return
        if not received:
            break
        read += len(received)
        for frame in parser.feed(received):
            type_, text = (surface.without_key(part.encode()) for part in (frame.type, frame.data))
            data = codec.loads(text)
            watch.take(type_.decode(), object_of(data))
    if watch.ended_at is not None:
        after = time.monotonic() - watch.ended_at
        watch.end = "at once" if after < _AT_ONCE else "within 20 s"


def _opened(surface: V2Surface, job: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    wire = surface.wire
    url = wire.base_url.joinpath("api", "v2", "jobs", job, "events")
    headers = {"Authorization": f"Bearer {wire.key}", "Accept": "text/event-stream"}
    return wire.session.get(url, headers=headers, allow_redirects=False)


async def limits(surface: V2Surface) -> None:
    """Observe how many streams may be open at once, and whether many reads are throttled."""
    job, _ = await surface.submit(workflows.slow(surface.classes) or workflows.tiny())
    if job is None:
        surface.miss("No job was accepted.", "streams", "reads")
        return
    async with AsyncExitStack() as stack:
        opened, refused = 0, ""
        for _ in range(_STREAMS):
            answer = await stack.enter_async_context(_opened(surface, job))
            if answer.status != 200:
                again = ", with Retry-After" if "Retry-After" in answer.headers else ""
                refused = f"{answer.status}{again}"
                break
            opened += 1
        surface.see("streams", f"{opened} open" + (f", then {refused}" if refused else ""))
    await surface.cancel(job)
    replies: list[Reply] = []
    for _ in range(_READS // _AT_A_TIME):
        calls = (surface.call("GET", f"jobs/{job}", repeats=False) for _ in range(_AT_A_TIME))
        replies += await asyncio.gather(*calls)
    throttled = [number for number, reply in enumerate(replies) if reply.status == 429]
    if throttled:
        surface.see("reads", outcome(replies[throttled[0]]), f"after {throttled[0]}")
    else:
        surface.see("reads", "answered")
