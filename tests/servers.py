"""Servers of the tests' own, on free ports of the loopback, stopped behind their blocks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

#: No server needs longer to come up, however busy the machine.
PATIENCE = 60.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(*names: str, package: str) -> str:
    """The first of these programs that is installed; without one the test is skipped."""
    for name in names:
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(f"{package} is not installed")


@dataclass
class ServerProcess:
    """A server that can be stopped and started again, on the same port, and frozen."""

    name: str
    port: int
    command: Sequence[str | Path]
    folder: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            )
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and wait for its end. One that is frozen is thawed first."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(how)
            try:
                self.process.wait(PATIENCE)
            finally:
                self._signal(signal.SIGKILL)
            self.process = None

    def freeze(self) -> None:
        """Stop all of its processes where they are: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def _signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        for pid in _family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, which)


def _family(pid: int) -> list[int]:
    """A process and all that descend from it: PostgreSQL's are in sessions of their own."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


@contextmanager
def _running(server: ServerProcess) -> Iterator[ServerProcess]:
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@contextmanager
def valkey(folder: Path) -> Iterator[ServerProcess]:
    """Valkey, or Redis where it is installed instead; it keeps nothing."""
    port = free_port()
    command = (program("valkey-server", "redis-server", package="Valkey"), "--port", str(port))
    options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
    with _running(ServerProcess("valkey", port, (*command, *options), folder)) as server:
        yield server
