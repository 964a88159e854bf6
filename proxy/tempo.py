"""How soon things happen that nobody asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.cloud.circuit import Circuit
from proxy.cloud.silence import Silence
from proxy.cloud.waits import Patience, Waits


@dataclass(frozen=True, slots=True)
class Tempo:
    """How soon trouble with the cloud is noticed and things are tried again.

    Times are seconds. `heartbeat`, `silence` and `socket_waits` are the event sockets', for which
    a submission waits up to `socket_patience`; the keys' files are looked at every `key_interval`;
    an answer about readiness is at most `ready_age` old.
    """

    patience: Patience = field(default_factory=Patience)
    circuit: Callable[[], Circuit] = Circuit
    heartbeat: float = 20.0
    silence: Callable[[], Silence] = Silence
    socket_waits: Waits = field(default_factory=lambda: Waits(first=0.5, longest=30.0))
    socket_patience: float = 3.0
    catalogue_patience: float = 10.0
    key_interval: float = 2.0
    ready_age: float = 3.0
