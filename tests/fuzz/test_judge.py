"""The process that judges inputs ends with the one that asks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

_ASK = """
import os, sys
from fuzz.judge import Judge
Judge("token_path").check(b"/")
sys.stdout.flush()
os._exit(0)  # as libFuzzer ends
"""


def test_it_ends_when_the_fuzzer_exits() -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    # The pipe of its output is open for as long as the judge has it.
    subprocess.run(
        [sys.executable, "-c", _ASK], env=environment, capture_output=True, timeout=60, check=True
    )
