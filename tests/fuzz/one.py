"""Fuzzes one target with atheris: `python -m fuzz.one TARGET DEFECTS [options of libFuzzer]`.

The process ends with the first input that breaks the contract, which is written to the folder
`DEFECTS`.
"""

from __future__ import annotations

import importlib
import sys
from hashlib import sha256
from pathlib import Path
from random import Random

import atheris
from fuzz.harness import MAX_INPUT, TARGETS, BrokenContractError
from fuzz.judge import Judge
from fuzz.mutation import mutated_json, repeated

#: Seconds of processor time, instrumented, from which the judge is asked for time and memory: what
#: takes much memory takes time as well.
_SUSPICIOUS = 0.005


def main(name: str, defects: Path, options: list[str]) -> None:
    """Fuzz until time is up or a defect is found."""
    judge = Judge(name)
    with atheris.instrument_imports(include=["proxy"]):
        importlib.import_module("fuzz.targets")
    target = TARGETS[name]

    def run(data: bytes) -> None:
        try:
            if target.seconds(data) > _SUSPICIOUS:
                judge.check(data)
        except BrokenContractError:
            defects.mkdir(parents=True, exist_ok=True)
            (defects / f"{name}-{sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        changed = None
        if random.random() < 0.05:
            return repeated(data, max_size, random)
        if target.json and random.random() < 0.8:
            changed = mutated_json(data, max_size, random)
        return atheris.Mutate(data, max_size) if changed is None else changed

    arguments = [sys.argv[0], f"-max_len={MAX_INPUT}", "-rss_limit_mb=1024", "-timeout=10"]
    atheris.Setup([*arguments, *options], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
