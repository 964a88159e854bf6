"""Calls that are better not made: what all calls of an account have learnt from their answers."""

from __future__ import annotations

import time

import structlog

from proxy.cloud.brake import Brake
from proxy.cloud.circuit import Circuit
from proxy.cloud.errors import (
    GATEWAY_STATUSES,
    CloudDown,
    CloudRefused,
    CloudUnauthorized,
    CloudUnreachable,
    refusal,
)
from proxy.translate.errors import is_throttling

log = structlog.get_logger(__name__)


class Restraint:
    """Refuses calls by what the calls before them met.

    While the cloud is silent or unavailable (`circuit`) they fail with `CloudDown`; after a 429
    (`brake`) with that 429; after two 401 in a row with the last one, but for a try now and then,
    until the key is another one.
    """

    def __init__(self, circuit: Circuit, brake: Brake) -> None:
        self._circuit = circuit
        self._brake = brake
        self._throttled: object = ""
        self._unavailable: int | None = None
        self._key = ""
        self._refused: object = ""
        self._lock = _lock()

    def check(self, call: str, key: str) -> None:
        """Raise instead of a call that is not to be made now; the errors say when it may be."""
        now = time.monotonic()
        if key != self._key:
            self._key = key
            self._lock = _lock()
        wait = self._brake.wait(now)
        if wait > 0:
            raise refusal(call, 429, self._throttled, wait)
        if self._lock.wait(now) > 0:
            raise refusal(call, 401, self._refused, None)
        wait = self._circuit.wait(now)
        if wait > 0:
            status = self._unavailable
            said = "does not answer" if status is None else f"answers {status}"
            raise CloudDown(f"{call}: the cloud {said}", status=status, retry_after=wait)

    def answered(self, key: str) -> None:
        """A call was answered as it should be."""
        self._circuit.succeeded()
        self._brake.succeeded()
        self._key_taken(key)

    def failed(self, error: CloudRefused | CloudUnreachable, key: str) -> None:
        """A call was refused or not answered."""
        now = time.monotonic()
        if isinstance(error, CloudUnreachable) or error.status in GATEWAY_STATUSES | {503}:
            self._unavailable = error.status if isinstance(error, CloudRefused) else None
            if self._circuit.failed(now):
                log.warning("cloud_silent")
            return
        self._circuit.succeeded()
        if error.status == 429 and is_throttling(error.body):
            self._throttled = error.body
            self._brake.slowed(now, error.retry_after)
            log.warning("cloud_throttles", seconds=round(self._brake.wait(now), 1))
        elif not isinstance(error, CloudUnauthorized):
            self._key_taken(key)
        elif key == self._key:
            self._refused = error.body
            if self._lock.failed(now):
                log.error("key_refused")

    def _key_taken(self, key: str) -> None:
        if key == self._key:
            self._lock.succeeded()


def _lock() -> Circuit:
    return Circuit(failures=2, silence=0.0, first_wait=5.0, longest_wait=60.0)
