"""Shows what is wrong with inputs: `python -m fuzz.replay TARGET FILE…`."""

from __future__ import annotations

import sys
from pathlib import Path

from fuzz.harness import check
from fuzz.targets import TARGETS


def main(name: str, files: list[str]) -> None:
    """Check the inputs in files; the first one that breaks the contract ends with a traceback."""
    for file in files:
        check(TARGETS[name], Path(file).read_bytes())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
