"""Private copies of the project, in which defects and probes are planted."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

#: What tests read, beside files at the top.
_FOLDERS = ("proxy", "tests", "docs", "examples", "requirements", "benchmarks", ".github")


#: Seconds between two looks whether a program is to end.
_LOOK = 0.5
#: Bytes of memory of a process: a defect may make a loop that only takes memory.
_MEMORY = 4 << 30


class EndedError(Exception):
    """Raised when no more is to run."""


class Bound:
    """Until when programs run: so many minutes from now on, or until somebody ends them."""

    def __init__(self, minutes: float = math.inf) -> None:
        self._ends = time.monotonic() + 60 * minutes
        self._ended = threading.Event()

    def end(self, *_: object) -> None:
        """End all that runs; a signal may call it."""
        self._ended.set()

    def check(self) -> None:
        """Raise `EndedError` when no more is to run."""
        if self._ended.is_set() or time.monotonic() >= self._ends:
            raise EndedError


class Ran(NamedTuple):
    """What came of a program: its exit code, `None` where it was ended after its time."""

    code: int | None
    output: str


class Copy:
    """A copy of the project in a folder, in which programs run until a bound."""

    def __init__(self, folder: Path, bound: Bound) -> None:
        self.folder, self._bound = folder, bound
        for name in _FOLDERS:
            shutil.copytree(ROOT / name, folder / name)  # with what is compiled: times stay
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, folder)

    def source(self, module: str) -> bytes:
        """Return the source of a module."""
        return (self.folder / "proxy" / module).read_bytes()

    def write(self, module: str, source: bytes) -> None:
        """Change a module."""
        path = self.folder / "proxy" / module
        path.write_bytes(source)
        # Compiled code is told by the time in seconds and the size, which may be the same.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def run(
        self, *words: str, seconds: float | None = None, variables: Mapping[str, str] | None = None
    ) -> Ran:
        """Run a module of Python here with arguments; with `seconds` it has so long. Raises
        `EndedError`."""
        self._bound.check()
        ends = time.monotonic() + (math.inf if seconds is None else seconds)
        path = os.pathsep.join((str(self.folder), str(self.folder / "tests")))
        environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                f'ulimit -v {_MEMORY >> 10}; exec "$@"',
                "sh",
                sys.executable,
                "-m",
                *words,
            ],
            cwd=self.folder,
            env=environment | (variables or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            while time.monotonic() < ends:
                self._bound.check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=_LOOK)
                    return Ran(process.returncode, output)
            return Ran(None, "")
        finally:
            end_all(process)


def end_all(process: subprocess.Popen[str]) -> None:
    """End a program with all that it has started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def digest_of(root: Path, names: Sequence[str]) -> str:
    """Return what differs whenever what the tests in a copy do may differ."""
    digest = hashlib.sha256(repr(names).encode())
    for folder in ("proxy", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
