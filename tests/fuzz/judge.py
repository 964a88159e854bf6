"""A process without instrumentation that says whether an input really takes too long.

Instrumented code is several times slower. The process is forked before anything is instrumented.
"""

from __future__ import annotations

import importlib
import multiprocessing
from multiprocessing.connection import Connection

from fuzz.harness import TARGETS, BrokenContractError, check


class Judge:
    """The process, for one target."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        ends = other, self._connection
        self._process = context.Process(target=_serve, args=(name, *ends), daemon=True)
        self._process.start()
        other.close()

    def check(self, data: bytes) -> None:
        """Raise `BrokenContractError` if the target does not keep its contract."""
        self._connection.send_bytes(data)
        complaint = self._connection.recv()
        if complaint is not None:
            raise BrokenContractError(complaint)


def _serve(name: str, connection: Connection, others: Connection) -> None:
    others.close()  # else this process would keep its own connection open, and never end
    importlib.import_module("fuzz.targets")
    target = TARGETS[name]
    for seed in list(target.seeds())[:3]:  # whatever is imported or cached with the first input
        target.run_quietly(seed)
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        complaint = None
        try:
            check(target, data)
        except BrokenContractError as error:
            complaint = str(error)
        connection.send(complaint)
