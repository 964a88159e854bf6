"""The contract that every target keeps, and how it is measured.

A target gets bytes that somebody else chose. It returns, or raises one of its documented errors,
within `MAX_SECONDS` of processor time and `MAX_MEMORY` for up to `MAX_INPUT` bytes. Anything else
is a defect.
"""

from __future__ import annotations

import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

#: Bytes of an input, seconds of processor time and bytes of memory that it may take.
MAX_INPUT, MAX_SECONDS, MAX_MEMORY = 64 * 1024, 0.010, 10 * 1024 * 1024

#: How often a slow input is tried again.
_TRIES = 5

TARGETS: dict[str, Target] = {}


class BrokenContractError(AssertionError):
    """Raised when a target takes too long or too much memory, or raises an undocumented error."""


@dataclass(frozen=True)
class Target:
    """What parses foreign input: `run` raises nothing but the `documented` errors.

    `seeds` yields inputs to begin with. Inputs of one with `json` are JSON.
    """

    name: str
    run: Callable[[bytes], object]
    documented: tuple[type[Exception], ...]
    seeds: Callable[[], Iterable[bytes]]
    json: bool = False

    def call(self, data: bytes) -> None:
        """Run once. Raises `BrokenContractError` for an undocumented error."""
        try:
            self.run(data)
        except self.documented:
            pass
        except Exception as error:
            raise BrokenContractError(
                f"{self.name} raises {type(error).__name__}: {error}"
            ) from error

    def run_quietly(self, data: bytes) -> None:
        """Run once, whatever comes of it."""
        with suppress(Exception):
            self.run(data)

    def seconds(self, data: bytes) -> float:
        """Return the processor time of a run, without searches for garbage, which take as long as
        the whole process is large."""
        gc.disable()
        try:
            began = time.process_time()
            self.call(data)
            return time.process_time() - began
        finally:
            gc.enable()

    def memory(self, data: bytes) -> int:
        """Return the most bytes that a run has allocated at once."""
        tracemalloc.start()
        try:
            self.call(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return peak


def check(target: Target, data: bytes) -> None:
    """Raise `BrokenContractError` if a target does not keep the contract for an input.

    A slow input has a few more tries: other programs on the machine slow down single runs. On a
    machine with more running processes than cores, which share caches, it may take twice as long.
    """
    data = data[:MAX_INPUT]
    limit = MAX_SECONDS * (2 if os.getloadavg()[0] > (os.cpu_count() or 1) else 1)
    seconds = target.seconds(data)
    for _ in range(_TRIES):
        if seconds > limit:
            seconds = min(seconds, target.seconds(data))
    if seconds > limit:
        raise BrokenContractError(f"{target.name} takes {seconds * 1000:.1f} ms")
    if (memory := target.memory(data)) > MAX_MEMORY:
        raise BrokenContractError(f"{target.name} takes {memory / 2**20:.1f} MB")


def of_bytes(
    *documented: type[Exception], seeds: Callable[[], Iterable[bytes]]
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    """Return a decorator that makes a function of bytes a target of its name."""

    def register(run: Callable[[bytes], object]) -> Callable[[bytes], object]:
        TARGETS[run.__name__] = Target(run.__name__, run, documented, seeds)
        return run

    return register


def of_text(
    *documented: type[Exception], seeds: Iterable[str]
) -> Callable[[Callable[[str], object]], Callable[[str], object]]:
    """Return a decorator that makes a function of a text a target; bytes that are no UTF-8 become
    lone surrogates."""

    def register(run: Callable[[str], object]) -> Callable[[str], object]:
        def decoded(data: bytes) -> object:
            return run(data.decode(errors="surrogateescape"))

        encoded = [seed.encode(errors="surrogateescape") for seed in seeds]
        TARGETS[run.__name__] = Target(run.__name__, decoded, documented, lambda: encoded)
        return run

    return register


def of_json(
    *documented: type[Exception],
    parse: Callable[[bytes], Any],
    seeds: Callable[[], Iterable[object]],
) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
    """Return a decorator that makes a function of a JSON value a target.

    `parse` decodes it as the program does; what it refuses never gets further.
    """

    def register(run: Callable[[Any], object]) -> Callable[[Any], object]:
        def decoded(data: bytes) -> object:
            try:
                value = parse(data)
            except (ValueError, *documented):
                return None
            return run(value)

        def encoded() -> Iterator[bytes]:
            return (json.dumps(value).encode() for value in seeds())

        TARGETS[run.__name__] = Target(run.__name__, decoded, documented, encoded, json=True)
        return run

    return register
