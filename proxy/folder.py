"""The data folder: made where it is missing, and never shared by two processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from proxy.settings import ConfigError


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """The folder at `path`, this process's alone for the length of the block.

    The system lets go of it when the process ends, however it ends. Raises `ConfigError` when the
    folder cannot be made or written, or is another process's.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"Another comfy-cloud-proxy uses the data folder {path}: stop it, or choose another "
            "folder with --data-dir."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The data folder {path} cannot be written ({error.strerror}): correct its "
            "permissions, or choose another one with --data-dir."
        ) from error
    try:
        yield path
    finally:
        lock.release()
