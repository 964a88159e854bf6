"""Commands as people see them: at a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from process import TIMEOUT


@dataclass
class Terminal:
    """A terminal with a command of the proxy at it; `text` is what it shows."""

    process: asyncio.subprocess.Process
    text: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    #: Where what is typed goes.
    keyboard: int = -1
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    #: Ends when nobody can write to the terminal any more.
    reading: asyncio.Task[None] | None = None

    async def shows(self, *wanted: str) -> str:
        """Wait until all of this has been written; everything so far."""
        try:
            async with asyncio.timeout(TIMEOUT), self._changed:
                await self._changed.wait_for(lambda: all(text in self.text for text in wanted))
        except TimeoutError:
            raise AssertionError(f"{wanted} is not in {self.text!r}") from None
        return self.text

    async def ended(self) -> int:
        """Wait for the end and for all that was written; the exit code."""
        try:
            async with asyncio.timeout(TIMEOUT):
                code = await self.process.wait()
                if self.reading is not None:
                    await asyncio.wait([self.reading])
                return code
        except TimeoutError:
            self.process.send_signal(signal.SIGABRT)
            await self.shows("most recent call first")  # where each thread is, by faulthandler
            raise AssertionError(f"it has not ended: {self.text!r}") from None

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Take what is written until the other side closes."""
        while True:
            try:
                data = await reader.read(65536)
            except OSError:  # how Linux says that nobody writes any more
                return
            if not data:
                return
            async with self._changed:
                self.text += data.decode(errors="replace").replace("\r\n", "\n")
                asked = (question for question in self.answers if question in self.text)
                for question in sorted(asked, key=self.text.find):
                    os.write(self.keyboard, self.answers.pop(question).encode())
                self._changed.notify_all()


@asynccontextmanager
async def at_terminal(
    *words: str,
    columns: int = 80,
    environment: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
) -> AsyncIterator[Terminal]:
    """A command of the proxy at a terminal of so many columns; killed behind it.

    `environment` comes on top of a clean one. `answers` are what the terminal answers, once, when
    something is written to it.
    """
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 40, columns, 8 * columns, 16 * 40)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    left_out = ("COMFY_", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    whole = {**kept, "TERM": "xterm-256color", "PYTHONFAULTHANDLER": "1", **(environment or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", *words, stdin=theirs, stdout=theirs, stderr=theirs, env=whole
    )
    os.close(theirs)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    terminal = Terminal(process, answers=dict(answers or {}), keyboard=ours)
    terminal.reading = asyncio.create_task(terminal.read(reader))
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await terminal.reading
        transport.close()
