"""What a picture could make its process do. Carried out in that process."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from proxy.files.picture_worker import TaskFiles


def environment(_: TaskFiles) -> dict[str, Any]:
    return {"pid": os.getpid(), "names": list(os.environ), "modules": list(sys.modules)}


def spin(files: TaskFiles, *, pixels: int) -> None:
    if pixels:
        files.begin(pixels)
    while True:
        pass


def fill(files: TaskFiles, *, size: int) -> int:
    files.begin(1_000_000)
    return len(bytes(size))


def write(files: TaskFiles, *, size: int) -> None:
    files.begin(1_000_000)
    for _ in range(size >> 20):
        files.targets[0].write(bytes(1 << 20))


def end(files: TaskFiles, *, status: int) -> None:
    files.begin(1_000_000)
    os._exit(status)


def fail(_: TaskFiles) -> None:
    raise KeyError("mine")


def reach(files: TaskFiles, *, path: str, port: int) -> list[str]:
    """What comes of opening a file, a new file and a connection."""
    found = []
    for attempt in (
        lambda: Path(path).read_bytes(),
        lambda: Path(path).with_name("new").write_bytes(b""),
        lambda: socket.create_connection(("127.0.0.1", port)),
    ):
        try:
            attempt()
        except OSError as error:
            found.append(os.strerror(error.errno or 0))
        else:
            found.append("done")
    return [*found, files.sources[0].read().decode()]


def say(_: TaskFiles, *, line: str) -> None:
    """Write a line as if it were an answer."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
