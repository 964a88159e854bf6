"""Processes of the server's own for work that cannot be stopped: no other module starts one.

Each does one task after another, and is killed with a task that passes its time. The module that
it runs sets the other limits, reads a task from each line of its input, and answers in lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

#: Seconds without a task after which a process ends.
IDLE_SECONDS = 60.0
#: Seconds in which a process must have started.
_START_SECONDS = 30.0
#: Seconds that a process may ask for, and those in which one ends that has closed its output.
_MAX_SECONDS, _END_SECONDS = 60.0, 1.0
#: Bytes of an answer.
_MAX_ANSWER = 64 * 1024
#: Where the system limits a process's time on the processor, the time on the clock is so many times
#: longer: the machine may do other things.
_CLOCK_FACTOR = 1 if sys.platform == "win32" else 4
#: Variables of a process. It gets none of the server's, which hold keys. With one arena glibc
#: reserves no address space for each thread. Blocks of 8 MB and more go back to the system at once,
#: and of smaller ones all but 16 MB, which the next picture gets without new pages: without that a
#: usual one takes a tenth to a third longer.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}
#: Variables without which Windows opens no process.
_NEEDED = ("SYSTEMROOT", "TEMP", "TMP")


class EndedError(Exception):
    """Raised when a process ended before its task: it passed a limit, or failed.

    `progress` is what it last told of the task.
    """

    def __init__(self, progress: Mapping[str, Any]) -> None:
        super().__init__("the process that did the work ended before it")
        self.progress = progress


class Processes:
    """Processes that run a module, as many as there are tasks at once. Who calls limits these.

    They start with a task, and end after `IDLE_SECONDS` without one.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._running: set[_Process] = set()
        self._idle: dict[_Process, asyncio.TimerHandle] = {}

    async def run(self, task: Mapping[str, Any], seconds: float) -> Any:
        """Return the answer to a task, for which a process has so many seconds.

        A process may answer with `{"seconds": …}` that it needs more, once. A caller that is
        cancelled ends the process. Raises `EndedError`, `OSError` if no process can be started.
        """
        process = self._take_idle() or await self._started()
        try:
            answer = await process.answer(task, seconds)
        except BaseException:
            await process.end()
            raise
        loop = asyncio.get_running_loop()
        self._idle[process] = loop.call_later(IDLE_SECONDS, self._close_idle, process)
        return answer

    async def close(self) -> None:
        """End all processes."""
        while self._take_idle() is not None:
            pass
        await asyncio.gather(*(process.end() for process in self._running))

    def _take_idle(self) -> _Process | None:
        """Return the process that has been idle for the shortest time, `None` if there is none."""
        while self._idle:
            process, timer = self._idle.popitem()
            timer.cancel()
            if process.is_open:
                return process
        return None

    def _close_idle(self, process: _Process) -> None:
        del self._idle[process]
        process.close_input()

    async def _started(self) -> _Process:
        needed = {name: os.environ[name] for name in _NEEDED if name in os.environ}
        _, process = await asyncio.get_running_loop().subprocess_exec(
            _Process,
            *(sys.executable, "-m", self._module),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={**needed, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._running = {process for process in self._running if not process.has_ended} | {process}
        return process


class _Process(asyncio.SubprocessProtocol):
    """A process, and what it has written since its last task."""

    def __init__(self) -> None:
        self._output = b""
        self._changed = asyncio.Event()
        self._exited = asyncio.Event()
        #: Whether it can do another task.
        self.is_open = True

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._exited.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._output += data
        self._changed.set()
        if len(self._output) > _MAX_ANSWER:
            self._transport.close()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.is_open = False
        self._changed.set()

    def process_exited(self) -> None:
        self.is_open = False
        self._changed.set()
        self._exited.set()
        self._transport.close()

    async def answer(self, task: Mapping[str, Any], seconds: float) -> Any:
        """Give it a task, and return its answer. Raises `EndedError`."""
        loop, progress = asyncio.get_running_loop(), cast(Mapping[str, Any], {})
        self._output = b""
        self._input().write(json.dumps(task).encode() + b"\n")
        with suppress(TimeoutError, ValueError, TypeError):  # it is late, or talks nonsense
            async with asyncio.timeout(_START_SECONDS + seconds * _CLOCK_FACTOR) as deadline:
                while (line := await self._line()) is not None:
                    answer = json.loads(line)
                    if "seconds" not in answer or progress:
                        return answer
                    longer = min(float(answer["seconds"]), _MAX_SECONDS)
                    deadline.reschedule(loop.time() + longer * _CLOCK_FACTOR)
                    progress = answer
        raise EndedError(progress)

    async def _line(self) -> bytes | None:
        """Return the next line, `None` behind the last one."""
        while b"\n" not in self._output:
            if not self.is_open:
                return None
            self._changed.clear()
            await self._changed.wait()
        line, _, self._output = self._output.partition(b"\n")
        return line

    def close_input(self) -> None:
        """Let it end, which it does when it can read no more tasks."""
        self._input().close()

    async def end(self) -> None:
        """Kill it unless it exits, and wait until it has ended."""
        if not self.is_open:
            # asyncio loses the status of a process that it kills while that ends.
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await self._exited.wait()
        if not self._exited.is_set():
            with suppress(ProcessLookupError):
                self._transport.kill()
            await self._exited.wait()

    def _input(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
