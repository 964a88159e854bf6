"""Fuzzes the targets one after another: `make fuzz`, or `python -m fuzz.run [TARGET…]`.

The corpus of a target is kept below `--corpus` and grows with each run. An input that breaks a
contract is written below `--defects`, and the target's name is printed; `python -m fuzz.replay`
shows what is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from fuzz.targets import TARGETS


def fuzz(name: str, seconds: int, corpus: Path, defects: Path) -> bool:
    """Fuzz a target for a time. Return whether it kept its contract."""
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    defects.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as seeds:
        for seed in TARGETS[name].seeds():
            Path(seeds, sha256(seed).hexdigest()).write_bytes(seed)
        command = [
            *(sys.executable, "-m", "fuzz.one", name, str(defects)),
            *(f"-max_total_time={seconds}", "-print_final_stats=1"),
            *(f"-artifact_prefix={defects}/{name}-", str(folder), seeds),
        ]
        log = defects / f"{name}.log"
        with log.open("wb") as output:
            ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(encoding="utf-8", errors="replace")
    if ended.returncode == 0:
        log.unlink()
    stats = dict(
        line.removeprefix("stat::").split(":", 1)
        for line in text.splitlines()
        if line.startswith("stat::")
    )
    count = stats.get("number_of_executed_units", "?").strip()
    print(f"{name}: {count} inputs, {'kept' if ended.returncode == 0 else f'BROKEN, see {log}'}")
    return ended.returncode == 0


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a target broke its contract."""
    parser = argparse.ArgumentParser(prog="fuzz.run")
    parser.add_argument("targets", nargs="*", help="targets, all without any")
    parser.add_argument("--seconds", type=int, default=60, help="time of each target")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz/corpus"))
    parser.add_argument("--defects", type=Path, default=Path(".fuzz/defects"))
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("Skipped: atheris has no wheel for this Python or platform.")
        return 0
    names = given.targets or list(TARGETS)
    kept = [fuzz(name, given.seconds, given.corpus, given.defects) for name in names]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
