"""Images and containers made with buildah and runc, without a daemon and without a registry.

Everything is kept in one folder. Containers have a network of their own with nothing but a loopback
interface, which another container may share.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

TOOLS = ("buildah", "runc", "netavark", "mmdebstrap")

#: Seconds that a build and a container may take, however busy the machine.
BUILD_TIMEOUT = 1200
TIMEOUT = 120

#: What lets the programs of the base reach a package index as this machine does.
_OF_THIS_MACHINE = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))


def missing() -> str:
    """Why there can be no containers here; empty if there can."""
    if os.geteuid() != 0:
        return "building and running images needs root"
    places = (*os.environ["PATH"].split(":"), "/usr/sbin", "/usr/lib/podman")
    absent = [tool for tool in TOOLS if shutil.which(tool, path=":".join(places)) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass
class Store:
    """Images, in a folder that is nobody else's."""

    folder: Path
    driver: str = "overlay"

    def __post_init__(self) -> None:
        try:
            self._buildah("info")
        except AssertionError:  # a file system on which there are no overlays
            self.driver = "vfs"

    def make_base(self) -> str:
        """A minimal Debian with Python, where the official image of Python cannot be had.

        Like that image it has `python3` and pip in `/usr/local`.
        """
        archive = self.folder / "base.tar"
        hooks = [f"copy-in {path} {path.parent}" for path in _OF_THIS_MACHINE if path.exists()]
        hooks.append('chroot "$1" python3 -m venv /usr/local')
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--include=python3,python3-venv,ca-certificates",
            *(f"--customize-hook={hook}" for hook in hooks),
            _suite(),
            str(archive),
            *([str(sources)] if sources.exists() else []),
            timeout=BUILD_TIMEOUT,
        )
        container = self._buildah("from", "scratch").strip()
        self._buildah("add", container, str(archive), "/")
        self._buildah("commit", "--rm", container, "localhost/base")
        archive.unlink()
        return "localhost/base"

    def build(self, context: Path, tag: str, **arguments: str) -> str:
        """Build the Dockerfile of a folder; returns what the build says."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        return self._buildah(
            "build",
            "--format=docker",  # the format of the open standard has no health command
            "--isolation=chroot",
            *_limits(),
            *given,
            f"--tag={tag}",
            str(context),
            timeout=BUILD_TIMEOUT,
        )

    def config(self, image: str) -> dict[str, Any]:
        """What the image says of how it is run."""
        about = json.loads(self._buildah("inspect", "--type=image", image))
        config: dict[str, Any] = about["Docker"]["config"]
        return config

    @contextmanager
    def unpacked(self, image: str) -> Iterator[Path]:
        """The root folder of a new container of the image."""
        container = self._buildah("from", "--pull-never", image).strip()
        try:
            yield Path(self._buildah("mount", container).strip())
        finally:
            self._buildah("rm", container)

    def _buildah(self, *words: str, timeout: float = TIMEOUT) -> str:
        places = (f"--root={self.folder}/images", f"--runroot={self.folder}/run")
        return _run("buildah", *places, f"--storage-driver={self.driver}", *words, timeout=timeout)


@dataclass
class Container:
    """A running container; `output` is what it wrote so far, both streams in one."""

    name: str
    folder: Path
    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list)

    def wait_for(self, text: str) -> None:
        """Read what it writes up to a line that has the text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {''.join(self.output)}")

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        rest, _ = self.process.communicate(timeout=TIMEOUT)
        self.output.append(rest)
        return self.process.returncode

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container as its user."""
        return subprocess.run(
            ["runc", f"--root={self.folder}", "exec", self.name, *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        _run("runc", f"--root={self.folder}", "kill", self.name, "TERM")
        return self.ended()

    @property
    def network(self) -> str:
        """The path of its network, for another container to share."""
        state = json.loads(_run("runc", f"--root={self.folder}", "state", self.name))
        return f"/proc/{state['pid']}/ns/net"


@contextmanager
def running(
    store: Store,
    image: str,
    *command: str,
    environment: Mapping[str, str] | None = None,
    mounts: Mapping[str, Path] | None = None,
    read_only: bool = True,
    network: str | None = None,
) -> Iterator[Container]:
    """A container of the image, run as the image says, without capabilities and new privileges.

    `command` replaces that of the image. `mounts` are paths in the container and what is there.
    """
    config = store.config(image)
    name = uuid.uuid4().hex
    bundle, state = store.folder / name, store.folder / "runc"
    bundle.mkdir()
    with store.unpacked(image) as root:
        _run("runc", "spec", f"--bundle={bundle}")
        spec = json.loads((bundle / "config.json").read_text())
        spec["root"] = {"path": str(root), "readonly": read_only}
        uid, gid = map(int, config["User"].split(":"))
        variables = dict(pair.split("=", 1) for pair in config["Env"]) | dict(environment or {})
        spec["process"] |= {
            "args": [*config["Entrypoint"], *(command or config["Cmd"])],
            "env": [f"{key}={value}" for key, value in variables.items()],
            "cwd": config["WorkingDir"],
            "user": {"uid": uid, "gid": gid},
            "terminal": False,
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [],
        }
        spec["mounts"] += [
            {"destination": place, "source": str(path), "type": "bind", "options": ["rbind", "rw"]}
            for place, path in (mounts or {}).items()
        ]
        kinds = [
            namespace for namespace in spec["linux"]["namespaces"] if namespace["type"] != "network"
        ]
        spec["linux"]["namespaces"] = [
            *kinds,
            {"type": "network", **({"path": network} if network else {})},
        ]
        (bundle / "config.json").write_text(json.dumps(spec))
        process = subprocess.Popen(
            ["runc", f"--root={state}", "run", f"--bundle={bundle}", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield Container(name, state, process)
        finally:
            subprocess.run(
                ["runc", f"--root={state}", "delete", "--force", name],
                capture_output=True,
                check=False,
            )
            process.communicate(timeout=TIMEOUT)


def new_volume(store: Store, image: str, folder: Path, place: str = "/data") -> Path:
    """An empty volume for a folder of the image, which belongs to whom the image says."""
    with store.unpacked(image) as root:
        about = (root / place.lstrip("/")).stat()
    folder.mkdir()
    os.chown(folder, about.st_uid, about.st_gid)
    folder.chmod(about.st_mode & 0o7777)
    return folder


def _limits() -> Iterator[str]:
    """The limits of this process, where buildah would raise those of what it runs."""
    for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        soft, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            yield f"--ulimit={name}={soft}:{hard}"


def _suite() -> str:
    """The name of this machine's Debian."""
    lines = Path("/etc/os-release").read_text().splitlines()
    about = dict(line.split("=", 1) for line in lines if "=" in line)
    return about.get("VERSION_CODENAME", "stable").strip('"')


def _run(*words: str, timeout: float = TIMEOUT) -> str:
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def documented(words: Sequence[str]) -> dict[str, str]:
    """The tag and the build arguments of a `docker build` of the documents."""
    found: dict[str, str] = {}
    for option, value in pairwise(words):
        if option in ("-t", "--tag"):
            found["tag"] = value
        elif option == "--build-arg":
            name, _, given = value.partition("=")
            found[name] = given
    return found
