"""The other publishers of a bus, as their beats show them. No clock: callers give the time."""

from __future__ import annotations

from typing import NamedTuple

#: Seconds without a beat after which a publisher is considered dead, with messages unsent.
MAX_SILENCE = 3.0
#: Seconds without a beat of the leading publisher after which its messages may be missing here.
MAX_LEADER_SILENCE = 0.9
#: Maximum number of known publishers, including those that have left.
MAX_PUBLISHERS = 1000

#: Bytes of a publisher's id.
ID_BYTES = 8
#: What a publisher that leaves sends instead of its losses.
_LEFT = 2**64 - 1


class Beat(NamedTuple):
    """What a publisher sends at an interval: whether it leads, and how often it has lost messages;
    `None` when it leaves."""

    publisher: bytes
    leads: bool
    losses: int | None

    def encode(self) -> bytes:
        """Return the id, 1 or 0 (1 byte), and the losses (8 bytes, big-endian)."""
        losses = _LEFT if self.losses is None else self.losses
        return b"".join((self.publisher, bytes([self.leads]), losses.to_bytes(8, "big")))

    @classmethod
    def decode(cls, payload: bytes) -> Beat:
        """Return the beat of `encode`."""
        losses = int.from_bytes(payload[ID_BYTES + 1 :], "big")
        return cls(payload[:ID_BYTES], bool(payload[ID_BYTES]), None if losses == _LEFT else losses)


class Publishers:
    """The publishers of other processes. Times are in seconds of one monotonic clock."""

    def __init__(self) -> None:
        #: The losses of each publisher, and the time of its last beat.
        self._known: dict[bytes, tuple[int, float]] = {}
        #: Those whose last beat came after a silence, or before the last connection: what they sent
        #: meanwhile may still come, or never.
        self._late: set[bytes] = set()
        #: Those that `find_silent` has returned since their last beat.
        self._silent: set[bytes] = set()
        #: The publisher that leads, as far as is known.
        self.leader = b""

    def __len__(self) -> int:
        return len(self._known)

    def receive(self, beat: Beat, now: float) -> bool:
        """Note a beat. Return whether its publisher has lost messages since the one before it."""
        if beat.leads:
            self.leader = beat.publisher
        elif beat.publisher == self.leader:  # its engine has stopped
            self.leader = b""
        known = self._known.pop(beat.publisher, None)
        self._silent.discard(beat.publisher)
        self._late.discard(beat.publisher)
        if beat.losses is None:
            return False
        self._known[beat.publisher] = (beat.losses, now)
        if known is not None and now - known[1] >= MAX_LEADER_SILENCE:
            self._late.add(beat.publisher)
        if len(self._known) > MAX_PUBLISHERS:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._silent.discard(oldest)
            self._late.discard(oldest)
        return beat.losses != (0 if known is None else known[0])

    def find_silent(self, now: float) -> list[bytes]:
        """Return publishers without a recent beat, each once: their last messages may be lost."""
        silent = [
            publisher
            for publisher, (_, last_beat) in self._known.items()
            if last_beat < now - MAX_SILENCE and publisher not in self._silent
        ]
        self._silent.update(silent)
        return silent

    def is_leader_silent(self, now: float) -> bool:
        """Return whether no publisher that leads has sent a recent beat: what it publishes may be
        missing here, also if it was silent before this process came.

        One beat does not end a silence: where the way here is slow, what was published behind it
        comes later still. The next one does if it is in time.
        """
        leader = self._known.get(self.leader)
        late = self.leader in self._late
        return leader is None or late or now - leader[1] >= MAX_LEADER_SILENCE

    def restart(self, now: float) -> None:
        """Count the silence of publishers from now: no beat could be received until then. The
        leader is silent until its next one, since it may have lost its connection, too."""
        self._known = {
            publisher: (losses, last_beat if publisher in self._silent else now)
            for publisher, (losses, last_beat) in self._known.items()
        }
        self._late = set(self._known)
