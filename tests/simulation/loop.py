"""An event loop with virtual time, on which several processes run that can be frozen and killed.

Sleeping costs nothing: when nothing is ready, time jumps to the next timer. Callbacks that are
ready at once run in an order that is drawn. Each callback belongs to the process in whose context
it was scheduled; those of a process that is frozen wait, those of one that was killed never run.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: How many callbacks may run while no time passes: more are a loop without an end.
_MAX_STILL = 100_000

#: Seconds that work in a thread takes, at least and at most.
_THREAD_SECONDS = (0.0002, 0.02)


class DeadlockError(Exception):
    """Raised when nothing is ready and no timer is set, or time does not pass."""


@dataclass(eq=False)
class Process:
    """A process of the simulated world. While it is `frozen`, what would run is `parked`.

    After `fuse` more callbacks `on_fuse` is called. It runs this release of the program, or with
    `is_newer` the next one.
    """

    name: str
    is_newer: bool = False
    alive: bool = True
    frozen: bool = False
    parked: list[SimulatedHandle] = field(default_factory=list)
    #: All tasks that it has begun: those of a killed one must not be collected, since that would
    #: run the ends of their blocks.
    tasks: list[SimulatedTask] = field(default_factory=list)
    #: How many clients of HTTP are open.
    sessions: int = 0
    fuse: int | None = None
    on_fuse: Callable[[], None] = lambda: None

    def unfinished(self) -> list[SimulatedTask]:
        """The tasks that have not ended."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return self.tasks


#: The process whose code runs; `None` is the world around them.
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedHandle:
    """A callback that is to run, as `asyncio.TimerHandle`."""

    __slots__ = ("_cancelled", "_when", "args", "callback", "context", "process")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context, when: float
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.process = context.get(PROCESS)
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        """Do not run."""
        self._cancelled = True
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        """Whether it is not to run."""
        return self._cancelled

    def when(self) -> float:
        """The time at which it is due."""
        return self._when


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in sets does not depend on where it is in memory."""

    #: Its place, once it has been in a set.
    number = 0

    def __hash__(self) -> int:
        return self.number or _numbered(self)


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose place in sets does not depend on where it is in memory."""

    number = 0

    def __hash__(self) -> int:
        return self.number or _numbered(self)


def _numbered(item: SimulatedTask | SimulatedFuture) -> int:
    item.number = next(SimulatedLoop.hashed)
    return item.number


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The loop. `problems` has what nobody has handled, `steps` counts callbacks."""

    #: The places of tasks and futures in sets, in the order in which they come into one.
    hashed = itertools.count(1)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = 1000.0
        self._ready: list[SimulatedHandle] = []
        self._timers: list[tuple[float, int, SimulatedHandle]] = []
        self._numbers = itertools.count()
        self._closed = False
        #: Whether ready callbacks run in the order in which they were scheduled.
        self.in_order = False
        self.steps = 0
        self._steps_before = 0
        self.problems: list[str] = []
        SimulatedLoop.hashed = itertools.count(1)

    # --- time and callbacks ----------------------------------------------------------------

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        """Run a callback next."""
        if context is None:
            context = copy_context()
        handle = SimulatedHandle(callback, args, context, self._now)
        if not self._closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> SimulatedHandle:
        """Run a callback after a delay."""
        if context is None:
            context = copy_context()
        handle = SimulatedHandle(callback, args, context, self._now + delay)
        if not self._closed:
            heapq.heappush(self._timers, (handle._when, next(self._numbers), handle))
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> SimulatedHandle:
        """Run a callback at a time."""
        return self.call_later(when - self._now, callback, *args, context=context)

    def in_world(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback of the world itself after a delay, whatever becomes of the process."""
        self.call_later(delay, callback, *args, context=_WORLD)

    # --- tasks and threads -----------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        """Return a new future."""
        return SimulatedFuture(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Begin a task."""
        task = SimulatedTask(coro, loop=self, name=name, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            if len(process.tasks) > 500:
                process.unfinished()
            process.tasks.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, _executor: object, work: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run work as one event, after a time that is drawn."""
        result = self.create_future()
        self.call_later(self._rng.uniform(*_THREAD_SECONDS), self._run_work, result, work, args)
        return result

    @staticmethod
    def _run_work(result: asyncio.Future[T], work: Callable[..., T], args: tuple[Any, ...]) -> None:
        if result.cancelled():
            return
        try:
            value = work(*args)
        except Exception as error:  # noqa: BLE001 (it is raised where the result is awaited)
            result.set_exception(error)
        else:
            result.set_result(value)

    # --- running ---------------------------------------------------------------------------

    def run_until_complete(self, main: Any) -> Any:
        """Run until a task has ended."""
        events._set_running_loop(self)
        try:
            task = self.create_task(main) if asyncio.iscoroutine(main) else main
            while not task.done():
                self._step()
            return task.result()
        finally:
            events._set_running_loop(None)

    def _step(self) -> None:
        """Run all that is ready, or let time pass until something is."""
        timers, pop = self._timers, heapq.heappop
        while timers and timers[0][2].callback is None:
            pop(timers)
        batch, self._ready = self._ready, []
        if not batch:
            if not timers:
                raise DeadlockError("nothing is ready and no timer is set")
            self._now = max(self._now, timers[0][0])
            self._steps_before = self.steps
        elif self.steps - self._steps_before > _MAX_STILL:
            raise DeadlockError("callbacks run without an end while no time passes")
        while timers and timers[0][0] <= self._now:
            batch.append(pop(timers)[2])
        if len(batch) > 1 and not self.in_order:
            self._rng.shuffle(batch)
        self.steps += len(batch)
        for handle in batch:
            if handle.callback is None:
                continue
            process = handle.process
            if process is not None and process.frozen:
                process.parked.append(handle)
            elif process is None or process.alive:
                if process is not None and process.fuse is not None:
                    self._burn(process)
                try:
                    handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 (as asyncio does)
                    self.problems.append(f"a callback failed: {error!r}")

    @staticmethod
    def _burn(process: Process) -> None:
        if process.fuse == 0:
            process.fuse = None
            process.on_fuse()
        elif process.fuse is not None:
            process.fuse -= 1

    def thaw(self, process: Process) -> None:
        """Let a frozen process run again, at once with all that was due meanwhile."""
        process.frozen = False
        parked, process.parked = process.parked, []
        self._ready += parked

    # --- what asyncio asks -----------------------------------------------------------------

    def get_debug(self) -> bool:
        """No checks beside."""
        return False

    def is_running(self) -> bool:
        """Whether it runs."""
        return True

    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note what nobody has handled."""
        if not self._closed:
            error = context.get("exception")
            self.problems.append(f"{context.get('message')}: {error!r}")

    async def shutdown_asyncgens(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """End all: what is still scheduled, or will be, never runs."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()


_WORLD = contextvars.Context()
