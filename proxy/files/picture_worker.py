"""The process that decodes and encodes untrusted pictures: `python -m proxy.files.picture_worker`.

It reads a task from each line of its input: the name of a function, the files that it reads and
writes, and its options; and it writes lines of JSON. The system ends it when it takes too much
memory or time, and while it works on a task it opens no file and no connection. It imports little,
so that it starts soon.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

from proxy.files.opened_pictures import NotAPictureError, TooManyPixelsError, pillow

#: Bytes of address space of the process, and of a file that it writes. Pillow takes 40 MB.
MAX_BYTES = 384 * 1024 * 1024
#: Seconds of processor time for the header of a picture, or for all of a usual one, and for all of
#: another: these and so many for each million pixels.
HEADER_SECONDS, SECONDS, MEGAPIXEL_SECONDS = 1.0, 4.0, 0.15
#: Maximum pixels of a usual picture.
USUAL_PIXELS = 1 << 21
#: What Pillow imports when it needs it, which is while no file can be opened.
_IMPORTED_LATE = ("copy", "PIL.ImageCms", "PIL.ImageColor", "PIL.ImageOps", "PIL.ImagePalette")
#: Characters of an error.
_MAX_REASON = 1000


class TaskFiles(NamedTuple):
    """The files of a task, open, and whom it tells how many pixels it will decode."""

    sources: Sequence[IO[bytes]]
    targets: Sequence[IO[bytes]]
    begin: Callable[[int], None]


Task = Callable[..., Any]


class UnusualError(Exception):
    """Raised for a picture that has too many pixels for the time of a usual one."""


if sys.platform == "win32":

    def _limit_size() -> None:
        """Do nothing: the server ends the process in time."""

    def _limit_time(seconds: float) -> None:
        """Do nothing."""

    @contextmanager
    def _nothing_else_open() -> Iterator[None]:
        """Do nothing."""
        yield

else:
    import resource

    def _limit_size() -> None:
        """Limit the process's memory and the files that it writes."""
        for limit, most in (
            (resource.RLIMIT_AS, MAX_BYTES),
            (resource.RLIMIT_FSIZE, MAX_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            _, hard = resource.getrlimit(limit)
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with suppress(ValueError, OSError):  # macOS does not take each one
                resource.setrlimit(limit, (allowed, allowed))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    def _limit_time(seconds: float) -> None:
        """Let the process end after so many more seconds on a processor.

        Not by `RLIMIT_CPU`, which counts from the start of the process, in ticks of the clock.
        """
        signal.setitimer(signal.ITIMER_PROF, seconds)

    @contextmanager
    def _nothing_else_open() -> Iterator[None]:
        """Let the process open no files and no connections during the block."""
        before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def seconds_for(pixels: int) -> float:
    """Return how many seconds of processor time a picture gets."""
    return SECONDS + MEGAPIXEL_SECONDS * pixels / 1e6


def name_of(task: Task) -> str:
    """Return the name of a function by which the process finds it."""
    return f"{task.__module__}:{task.__qualname__}"


def carried_out(
    wanted: Mapping[str, Any],
    begin: Callable[[int], None] = lambda _: None,
    limits: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, Any]:
    """Carry out a task, with its files open and then within the limits, and return the answer."""
    module, _, name = wanted["task"].partition(":")
    task = getattr(import_module(module), name)
    with ExitStack() as stack:
        sources = [stack.enter_context(Path(path).open("rb")) for path in wanted["sources"]]
        targets = [stack.enter_context(Path(path).open("wb")) for path in wanted["targets"]]
        stack.enter_context(limits())
        try:
            return {"result": task(TaskFiles(sources, targets, begin), **wanted["options"])}
        except UnusualError:
            return {"is_usual": False}
        except TooManyPixelsError as error:
            return {"max_pixels": error.max_pixels}
        except NotAPictureError as error:
            return {
                "refusal": [text[:_MAX_REASON] for text in (*error.args, error.kind, error.reason)]
            }


def _say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _begin(pixels: int) -> None:
    """Tell how many pixels will be decoded, and take the time for them."""
    seconds = seconds_for(pixels)
    _limit_time(seconds)
    _say(seconds=seconds, pixels=pixels)


def _check_usual(pixels: int) -> None:
    """Check that a usual picture has no more pixels. Raises `UnusualError`."""
    if pixels > USUAL_PIXELS:
        raise UnusualError


def main() -> None:
    """Carry out tasks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server and all its processes
    pillow().init()
    for name in _IMPORTED_LATE:
        import_module(name)
    _limit_size()
    for line in sys.stdin.buffer:
        _limit_time(HEADER_SECONDS)
        try:
            wanted = json.loads(line)
            begin = _check_usual if wanted["is_usual"] else _begin
            answer = carried_out(wanted, begin, _nothing_else_open)
        except MemoryError:
            os._exit(1)
        except Exception as error:  # noqa: BLE001 (the server logs it)
            answer = {"error": f"{type(error).__name__}: {error}"[:_MAX_REASON]}
        _limit_time(0.0)
        _say(**answer)


if __name__ == "__main__":
    main()
