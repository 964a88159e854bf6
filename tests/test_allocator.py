"""Pieces of files are read into memory that the process has already."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Reads pieces as they come from a socket, and prints how many pages were new.
PROGRAM = """
import resource, sys
from proxy.runtime.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
held = [bytes(262_000) for _ in range(4)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(200):
    held = None
    held = [bytes(262_000) for _ in range(4)]
print(faults() - before)
"""


def new_pages(mode: str) -> int:
    run = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_pieces_take_the_memory_of_those_before_them() -> None:
    assert new_pages("keep") < 2_000 < new_pages("leave")
