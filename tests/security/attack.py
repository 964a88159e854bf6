"""A proxy under attack, as a process of its own, and what others may notice of it.

    async def test_something(target: Target) -> None:
        async with target.attacked_by(MEMBER):
            ...  # what the attacker does

fails if a request of another member waits too long or is refused, if memory grows too much, or if
that member is not served on a new connection. `make attacks` prints the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import process
from team import add_members
from yarl import URL

#: The name of the property of a test's report that has the figures of an attack.
PROPERTY = "attack"
_PROBE = Path(__file__).with_name("probe.py")

Record = Callable[[str, object], None]


class Bounds(NamedTuple):
    """What others may notice: seconds of a request, megabytes, seconds until one is served."""

    who: str
    wait: float
    growth: int = 400
    served: float = 3.0


STRANGER = Bounds("stranger", wait=0.5)
MEMBER = Bounds("member", wait=1.0)
CLOUD = Bounds("broken cloud", wait=1.0)


@dataclass
class Figures:
    """What another member noticed of an attack; complete behind it. Seconds and megabytes.

    `machine` is the longest wait for a bare server meanwhile, which the machine alone causes.
    """

    wait: float = 0.0
    machine: float = 0.0
    served: float = 0.0
    growth: int = 0
    answers: int = 0
    refusals: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Target:
    """A running proxy: Ann is an admin; Bob is probed during attacks; Eve attacks."""

    process: process.Process
    tokens: Mapping[str, str]
    record: Record
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def url(self) -> URL:
        return self.process.url

    def bearer(self, member: str = "eve") -> dict[str, str]:
        """The header with the token of a member."""
        return {"Authorization": f"Bearer {self.tokens[member]}"}

    async def connect(
        self, sent: bytes = b"", *, source: str = "127.0.0.1", **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from the address `source` (127.*), on which these bytes were sent.

        It is open until `let_go`. `options` are those of `asyncio.open_connection`.
        """
        reader, writer = await asyncio.open_connection(
            self.url.host, self.url.port, local_addr=(source, 0), **options
        )
        self.writers.append(writer)
        writer.write(sent)
        return reader, writer

    def let_go(self) -> None:
        """Cut all connections."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def request(self, method: str, path: str, *, member: str = "eve", **options: Any) -> int:
        """The status of the answer to a request, which is read to its end.

        `options` are those of `aiohttp.ClientSession.request`.
        """
        headers = {**self.bearer(member), **options.pop("headers", {})}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url / path, headers=headers, **options) as answer,
        ):
            async for _ in answer.content.iter_any():
                pass
            return answer.status

    @asynccontextmanager
    async def attacked_by(
        self, bounds: Bounds, *, refusals: int = 0, graph: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Figures]:
        """Attack inside the block. At most `refusals` requests of Bob may be refused.

        With a `graph` Bob submits jobs instead of looking at the queue.
        """
        figures = Figures()
        token = self.tokens.get("bob", "")
        body = "" if graph is None else json.dumps({"prompt": graph})
        arguments = (str(_PROBE), str(self.url), str(self.process.process.pid), token, body)
        async with _probing(*arguments) as probe:
            yield figures
            async with asyncio.timeout(process.TIMEOUT):
                written, _ = await probe.communicate(b"")
        figures.__dict__.update(json.loads(written))
        self.record(PROPERTY, {"who": bounds.who, **figures.__dict__})
        times = busy()
        assert figures.growth <= bounds.growth, figures
        assert figures.wait - figures.machine <= bounds.wait * times, (figures, times)
        assert figures.served - figures.machine <= bounds.served * times, (figures, times)
        assert figures.refusals <= refusals, figures
        assert self.process.process.returncode is None, self.process.said[-20:]


def busy() -> float:
    """How many processes share a core of this machine, at least 1: so many times all takes longer.

    The system favours the bare server, which does little, so that its waits do not tell.
    """
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@asynccontextmanager
async def _probing(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that probes; its input is open until it is asked for its figures."""
    pipe = asyncio.subprocess.PIPE
    probe = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=pipe, stdout=pipe
    )
    try:
        assert probe.stdout is not None
        async with asyncio.timeout(process.TIMEOUT):
            assert await probe.stdout.readline() == b"ready\n"
        yield probe
    finally:
        if probe.returncode is None:
            probe.kill()
            await probe.communicate()


@asynccontextmanager
async def running_target(
    folder: Path,
    record: Record,
    *options: str,
    environment: Mapping[str, str],
    members: bool = True,
) -> AsyncIterator[Target]:
    """A proxy with these options and variables, with the members Ann, Bob and Eve or without."""
    people = {"ann": "admin", "bob": "user", "eve": "user"}
    tokens = await add_members(folder, people) if members else {}
    async with process.serving(folder, *options, environment=environment) as running:
        target = Target(running, tokens, record)
        try:
            yield target
        finally:
            target.let_go()
