"""`demo`, with the command as people have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from process import TIMEOUT

COMMAND = Path(sys.executable).with_name("comfy-cloud-proxy")
WITH_UVX = {"PATH": str(COMMAND.parent), "UV": "/usr/bin/uv"}


@pytest.mark.parametrize(
    ("environment", "step"),
    [
        ({"PATH": "/nowhere"}, None),
        (WITH_UVX, "the same command, with --simulate in the place of demo"),
    ],
    ids=["by its path", "with uvx"],
)
def test_the_demo_ends_with_what_can_be_typed_next(
    tmp_path: Path, environment: dict[str, str], step: str | None
) -> None:
    demo = subprocess.run(
        [COMMAND, "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    step = step or f"{os.path.relpath(COMMAND, tmp_path)} --simulate"
    assert f"\nNext: {step}\n" in demo.stdout
