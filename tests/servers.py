"""Servers of the tests' own, on free ports of the loopback, stopped behind their blocks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

#: No server needs longer to come up, however busy the machine.
TIMEOUT = 60.0

#: Who runs PostgreSQL and PgBouncer where the tests run as root, which they refuse.
_ACCOUNT = "nobody"


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to no connection until it is used:
    those are above 32,767."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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
    stop_signal: signal.Signals = signal.SIGTERM
    is_ready: Callable[[], bool] | None = None
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
                env=_environment(),
            )
        end = time.monotonic() + TIMEOUT
        while not (self.is_ready or self._takes_connections)():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop it, and wait for its end. One that is frozen is thawed first."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(how or self.stop_signal)
            try:
                self.process.wait(TIMEOUT)
            finally:
                self._signal(signal.SIGKILL)
            self.process = None

    def freeze(self) -> None:
        """Stop all of its processes where they are: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP)  # those that began meanwhile; the first one begins no more

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def _takes_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        for pid in _family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, which)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


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
    for name in found:
        found += parents.get(name, [])
    return found


def connections(pid: int, port: int) -> int:
    """How many sockets a process has that it connected to a port of this machine, in any state."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            count += str(descriptor.readlink()) in inodes
    return count


@contextmanager
def _running(server: ServerProcess) -> Iterator[ServerProcess]:
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@dataclass
class Postgresql:
    """A server with its databases; `url` is that of the first one, of which nothing is used."""

    server: ServerProcess
    folder: Path

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """The address of a database, or of it through somebody on another port."""
        return f"postgresql://proxy@127.0.0.1:{port or self.server.port}/{database}"

    def create(self, name: str) -> str:
        """Make an empty database; its address."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)


@contextmanager
def postgresql() -> Iterator[Postgresql]:
    """PostgreSQL, whose disk is not synchronized: it bears its own kill, not the machine's."""
    psycopg = pytest.importorskip("psycopg")
    # The client's package alone has that folder, too.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    usable = [initdb for initdb in found if os.access(initdb, os.X_OK)]
    initdb = usable[-1] if usable else Path(program("initdb", package="PostgreSQL"))
    binaries = initdb.parent
    with _folder() as (folder, user):
        data, port = folder / "data", free_port()
        options = ("-D", data, "-U", "proxy", "-A", "trust", "-E", "UTF8", "--no-sync")
        subprocess.run(
            (initdb, *options),
            user=user,
            check=True,
            capture_output=True,
            cwd=folder,
            env=_environment(),
        )
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": 200,
            "fsync": "off",
            "deadlock_timeout": "100ms",
        }
        chosen = [
            option for name, value in settings.items() for option in ("-c", f"{name}={value}")
        ]

        def is_ready() -> bool:
            try:
                psycopg.connect(found.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        command = (binaries / "postgres", "-D", data, *chosen)
        fast = signal.SIGINT  # does not wait for clients
        server = ServerProcess("postgresql", port, command, folder, user, fast, is_ready)
        found = Postgresql(server, folder)
        server.start()
        try:
            yield found
        finally:
            server.stop(signal.SIGQUIT)  # at once


@contextmanager
def pgbouncer(postgresql: Postgresql) -> Iterator[ServerProcess]:
    """PgBouncer in transaction mode before all databases of a server."""
    pgbouncer = program("pgbouncer", package="PgBouncer")
    with _folder() as (folder, user):
        port = free_port()
        (folder / "pgbouncer.ini").write_text(
            f"""[databases]
* = host=127.0.0.1 port={postgresql.server.port} user=proxy
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 200
default_pool_size = 20
"""
        )
        command = (pgbouncer, folder / "pgbouncer.ini")
        with _running(ServerProcess("pgbouncer", port, command, folder, user)) as server:
            yield server


@contextmanager
def haproxy(folder: Path, replicas: Sequence[int]) -> Iterator[ServerProcess]:
    """HAProxy before processes on these ports, as docs/cluster.md has it."""
    port = free_port()
    leaders = "\n".join(f"    server l{one} 127.0.0.1:{one} check" for one in replicas)
    standbys = "\n".join(
        f"    server s{one} 127.0.0.1:{one} backup track processes/p{one}" for one in replicas
    )
    processes = "\n".join(f"    server p{one} 127.0.0.1:{one} check" for one in replicas)
    (folder / "haproxy.cfg").write_text(
        f"""defaults
    mode http
    timeout connect 1s
    timeout check 3s
    timeout client 120s
    timeout server 120s
    timeout tunnel 1h
    retries 3
    retry-on conn-failure
    option redispatch 1
frontend clients
    bind 127.0.0.1:{port}
    default_backend leader
backend leader
    option httpchk GET /leader
    option allbackups
    default-server inter 250ms fall 1 rise 1
{leaders}
{standbys}
backend processes
    option httpchk GET /healthz
    default-server inter 500ms fall 1 rise 1
{processes}
"""
    )
    command = (program("haproxy", package="HAProxy"), "-db", "-f", folder / "haproxy.cfg")
    with _running(ServerProcess("haproxy", port, command, folder)) as server:
        yield server


@dataclass
class Bucket:
    """A bucket of an S3 server, and the keys to it."""

    url: str
    endpoint: str
    key: str
    secret: str


@contextmanager
def s3(folder: Path) -> Iterator[Bucket]:
    """An S3 server, with one empty bucket in memory."""
    port, key, secret = free_port(), "a-key", "a-secret-of-tests"
    command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    with _running(ServerProcess("moto", port, command, folder)):
        endpoint = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
        yield Bucket("s3://bucket/files", endpoint, key, secret)


@contextmanager
def _folder() -> Iterator[tuple[Path, str | None]]:
    """A folder, and whose it is if not ours."""
    folder = Path(tempfile.mkdtemp(prefix="ccp-"))
    user = _ACCOUNT if os.geteuid() == 0 else None
    try:
        if user is not None:
            shutil.chown(folder, user)
        yield folder, user
    finally:
        shutil.rmtree(folder)
