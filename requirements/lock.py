"""Writes the lock files of this folder from pyproject.toml: `make lock`, with `UPGRADE=1` anew.

`run.lock` has what the program needs, `build.lock` what makes its wheel, and each extra has a file
of its own with what it adds to `run.lock`. All pin one set of versions, for every Python and every
platform, with the hashes of the files. `ui-oldest.lock` stands apart: it has the oldest versions of
the web interface's packages that the extra `ui` allows, which are tested beside the locked ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent
RUN = "run"
BUILD = "build"
UI, OLDEST = "ui", "ui-oldest"
_PINNED = re.compile(r"(?m)^([a-z0-9][a-z0-9._-]*)(==[^\\\n]*)")


def groups() -> dict[str, list[str]]:
    """The requirements of each lock file as pyproject.toml has them."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    extras = project["optional-dependencies"]
    own = re.compile(rf"{re.escape(project['name'])}\[(.*)\]")

    def whole(lines: Iterable[str]) -> list[str]:
        """The requirements with those of the extras that are named among them."""
        found = []
        for line in lines:
            named = own.fullmatch(line)
            found += (
                [line]
                if named is None
                else whole(chain(*(extras[name] for name in named[1].split(","))))
            )
        return found

    return {
        RUN: project["dependencies"],
        # hatchling asks for editables when it installs a folder as editable.
        BUILD: [*document["build-system"]["requires"], "editables"],
        **{name: whole(lines) for name, lines in extras.items()},
    }


def oldest() -> list[str]:
    """The oldest versions that the extra `ui` allows."""
    found = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in groups()[UI])
    return [f"{match[1]}=={match[2]}" for match in found if match is not None]


def write(*, upgrade: bool) -> None:
    """Write all lock files; versions that are locked stay unless `upgrade`."""
    wanted = groups()
    with tempfile.TemporaryDirectory() as scratch:
        every = Path(scratch) / "every.txt"
        if not upgrade:
            locked = [
                path.read_text(encoding="utf-8")
                for path in sorted(FOLDER.glob("*.lock"))
                if path.stem != OLDEST
            ]
            every.write_text("".join(locked), encoding="utf-8")
        _compile([line for lines in wanted.values() for line in lines], every)
        run = FOLDER / f"{RUN}.lock"
        whole = Path(scratch) / "whole.txt"
        for name, lines in wanted.items():
            path, below = FOLDER / f"{name}.lock", [] if name in (RUN, BUILD) else wanted[RUN]
            options = ["--generate-hashes", "-c", str(every)]
            if below:
                whole.unlink(missing_ok=True)
                _compile([*below, *lines], whole, "-c", str(every))
                same = _pins(run).items() & _pins(whole).items()
                options += [word for pin, _ in same for word in ("--no-emit-package", pin)]
            path.unlink(missing_ok=True)
            _compile([*below, *lines], path, *options)
    _compile(oldest(), FOLDER / f"{OLDEST}.lock", "--generate-hashes", "--no-deps")
    for path in FOLDER.glob("*.lock"):
        if path.stem not in (*wanted, OLDEST):
            path.unlink()


def _pins(path: Path) -> dict[str, str]:
    """The version and the condition of each package in a lock file."""
    found = _PINNED.findall(path.read_text(encoding="utf-8"))
    return {name: pinned.strip() for name, pinned in found}


def _compile(requirements: Iterable[str], target: Path, *options: str) -> None:
    common = ("--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "--quiet")
    uv = Path(sys.executable).parent / "uv"
    subprocess.run(
        [uv, "pip", "compile", *common, *options, "-o", str(target), "-"],
        input="\n".join(requirements),
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main(arguments: Sequence[str]) -> None:
    """`--upgrade` takes the newest versions."""
    write(upgrade="--upgrade" in arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
