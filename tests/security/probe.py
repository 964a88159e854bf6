"""What another client notices of an attack: a process of its own, so that nothing else delays it.

`probe.py URL PID TOKEN BODY` asks for the queue with the token (empty: without one) until its
standard input ends, and then writes its figures as JSON. It asks on a connection that stays open
and on new ones; on the open one it posts the body to `/prompt` instead, unless that is empty. At
the same pace it asks a bare server, whose longest wait is what the machine alone causes.
It ends the process of the proxy if that grows by more than `MAX_GROWTH`, for the machine's sake.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

#: Seconds between two requests on the open connection, and between two new connections.
PAUSE, FRESH_PAUSE = 0.02, 0.1
#: Seconds between two jobs that are submitted.
JOB_PAUSE = 0.2
#: Seconds after which a request counts as not answered.
TIMEOUT = 10.0
#: Megabytes.
MAX_GROWTH = 1500
_PAGES_PER_MB = 1024 * 1024 // os.sysconf("SC_PAGE_SIZE")

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Probe:
    """Asks a server, and remembers the longest waits."""

    def __init__(self, url: str, token: str, body: str = "") -> None:
        place = urlsplit(url)
        self._place = (place.hostname, place.port)
        self._context = None
        if place.scheme == "https":
            self._context = ssl.create_default_context()
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        credential = f"Authorization: Bearer {token}\r\n" if token else ""
        head = f"Host: {place.netloc}\r\n{credential}"
        self._request = f"GET /queue HTTP/1.1\r\n{head}\r\n".encode()
        self._asked, self._pause = self._request, PAUSE
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self._asked = f"POST /prompt HTTP/1.1\r\n{head}\r\n{body}".encode()
            self._pause = JOB_PAUSE
        self.wait = self.served = 0.0
        self.answers = self.refusals = 0
        self.problems: set[str] = set()
        self.answered = asyncio.Event()
        self.ending = False

    async def keep_asking(self) -> None:
        """Ask again and again on one connection, and on another one if that is closed."""
        streams: _Streams | None = None
        while not self.ending:
            began = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT):
                    streams = streams or await self._connect()
                    good = await self._ask(*streams, self._asked)
            except (OSError, EOFError, TimeoutError) as error:
                self.problems.add(repr(error))
                streams, good = None, False
            self.answers += good
            self.refusals += not good
            self.wait = max(self.wait, time.monotonic() - began)
            if good:
                self.answered.set()
            await asyncio.sleep(self._pause)

    async def keep_connecting(self) -> None:
        """Ask on new connections; the longest time until one of them was served."""
        while not self.ending:
            began = time.monotonic()
            good = False
            while not good and time.monotonic() - began < TIMEOUT:
                with suppress(OSError, EOFError, TimeoutError):
                    async with asyncio.timeout(TIMEOUT):
                        reader, writer = await self._connect()
                        try:
                            good = await self._ask(reader, writer, self._request)
                        finally:
                            writer.transport.abort()
                self.served = max(self.served, time.monotonic() - began)
                await asyncio.sleep(FRESH_PAUSE)

    async def _connect(self) -> _Streams:
        return await asyncio.open_connection(*self._place, ssl=self._context)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> bool:
        """Whether the answer is 200."""
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        status = head.split(b" ", 2)[1]
        if status != b"200":
            self.problems.add(f"status {status.decode()}")
        return status == b"200"


class Memory:
    """The resident memory of a process and those that it has started, in megabytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.before = self.peak = self._now()

    async def watch(self) -> None:
        """Look again and again; end a process that grows too much."""
        while True:
            self.peak = max(self.peak, self._now())
            if self.peak - self.before > MAX_GROWTH:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            await asyncio.sleep(PAUSE)

    def _now(self) -> int:
        try:
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        except OSError:
            children = []
        return sum(map(_pages, (self._pid, *children))) // _PAGES_PER_MB


def _pages(pid: int | str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


async def _serve_bare(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, EOFError, asyncio.CancelledError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


async def _bare_server() -> None:
    server = await asyncio.start_server(_serve_bare, "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await _input_ended()


async def _input_ended() -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await reader.read()


async def _probe(url: str, pid: int, token: str, body: str) -> None:
    pipe = asyncio.subprocess.PIPE
    bare = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "bare", stdin=pipe, stdout=pipe
    )
    assert bare.stdout is not None
    bare_url = (await bare.stdout.readline()).decode().strip()
    probe, control, memory = Probe(url, token, body), Probe(bare_url, ""), Memory(pid)
    watching = asyncio.create_task(memory.watch())
    async with asyncio.TaskGroup() as asking:
        for work in (probe.keep_asking, probe.keep_connecting, control.keep_asking):
            asking.create_task(work())
        await asyncio.gather(probe.answered.wait(), control.answered.wait())
        probe.wait = control.wait = probe.served = 0.0
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await _input_ended()
        probe.ending = control.ending = True  # what is under way is waited for
    watching.cancel()
    await bare.communicate(b"")
    figures = {
        "wait": probe.wait,
        "machine": control.wait,
        "served": probe.served,
        "growth": memory.peak - memory.before,
        "answers": probe.answers,
        "refusals": probe.refusals,
        "problems": sorted(probe.problems),
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        asyncio.run(_bare_server())
    else:
        asyncio.run(_probe(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
