"""Packages of Node.js, installed once for all workers of a run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

#: A registry that cannot be reached is given up after seconds, but not for one error of it.
_RETRIES = ("--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000")
_OPTIONS = ("--no-audit", "--no-fund", "--fetch-timeout=10000", *_RETRIES)
#: Seconds for an installation.
_TIMEOUT = 90


def node_modules(tmp_path_factory: pytest.TempPathFactory, name: str, *packages: str) -> Path:
    """A folder in whose modules the packages are; without Node.js or the registry the test is
    skipped."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not installed")
    folder = tmp_path_factory.getbasetemp().parent / name
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "installed").exists():
            (folder / "package.json").write_text("{}")
            command = [npm, "install", *_OPTIONS, "--prefix", str(folder), *packages]
            try:
                subprocess.run(
                    command, check=True, capture_output=True, text=True, timeout=_TIMEOUT
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm's registry cannot be reached: no answer in {_TIMEOUT} seconds")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"npm's registry cannot be reached: {error.stderr.strip()[-200:]}")
            (folder / "installed").touch()
    return folder
