"""How soon things happen that nobody asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.cloud.event_socket import IdleWatchdog
from proxy.cloud.resilience import Backoff, CircuitBreaker, RetryPolicy


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How soon trouble with the cloud is noticed and things are tried again.

    Times are seconds. `heartbeat`, `watchdog` and `socket_backoff` are the event sockets', for
    which a submission waits up to `socket_patience`; the keys' files are looked at every
    `key_interval`; an answer about readiness is at most `ready_age` old.
    """

    retries: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: Callable[[], CircuitBreaker] = CircuitBreaker
    heartbeat: float = 20.0
    watchdog: Callable[[], IdleWatchdog] = IdleWatchdog
    socket_backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 30.0))
    socket_patience: float = 3.0
    catalog_patience: float = 10.0
    key_interval: float = 2.0
    ready_age: float = 3.0
