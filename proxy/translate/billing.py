"""What the cloud has booked, read from `GET /api/billing/events` with its units.

Sources: the specification of the cloud's ingest service and its web interface. Every field may be
absent or of another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from typing import Any

from msgspec import Struct

from proxy.translate.plans import decimal_of
from proxy.translate.reading import field_of
from proxy.translate.times import ms_of

#: The events that are about spending; others are about payments and the account.
USAGE_EVENTS = frozenset({"gpu_usage", "api_node_usage", "agent_usage", "api_usage_completed"})

#: What may stand at the end of a key's prefix for the rest of it.
_ELLIPSIS = ".…*"

#: The least characters by which a prefix tells keys apart: all begin with `comfyui-`.
MIN_PREFIX = 10


class BookedEvent(Struct, frozen=True):
    """An event of spending: when it was booked (ms), and how many US dollars. `key_prefix` is the
    beginning of the API key that spent it, empty for a session of the web interface."""

    id: str
    type: str
    at: int
    usd: Decimal
    key_prefix: str = ""

    def is_of(self, key: str) -> bool:
        """Return whether the key has spent it."""
        return len(self.key_prefix) >= MIN_PREFIX and key.startswith(self.key_prefix)


class BookedPage(Struct, frozen=True):
    """A page of events: those of spending, how many events it has in all, when the oldest of them
    was (ms), and how many there are on all pages."""

    spending: tuple[BookedEvent, ...]
    count: int
    oldest: int | None
    total: int


def page_of(answer: Mapping[str, Any]) -> BookedPage | None:
    """Return a page of events, `None` if the answer has no list of them."""
    events = answer.get("events")
    if not isinstance(events, list):
        return None
    spending = tuple(found for event in events if (found := booked_event(event)) is not None)
    times = [at for event in events if (at := _booked_at(event)) is not None]
    total = decimal_of(answer.get("total"))
    return BookedPage(
        spending,
        len(events),
        min(times, default=None),
        len(events) if total is None else int(total),
    )


def booked_event(event: object) -> BookedEvent | None:
    """Return an event of spending, `None` for any other and for one without id, time or amount.

    `charge_micro_usd` is in millionths of a dollar, `amount` in cents. No document gives the sign
    of what is spent: it is taken without.
    """
    if not isinstance(event, Mapping):
        return None
    id_, type_, at, params = (
        event.get("event_id"),
        event.get("event_type"),
        _booked_at(event),
        event.get("params"),
    )
    if not isinstance(id_, str) or not id_ or not isinstance(type_, str) or at is None:
        return None
    if type_ not in USAGE_EVENTS:
        return None
    usd = _usd(params) if isinstance(params, Mapping) else None
    if usd is None:
        return None
    prefix = event.get("api_key_prefix")
    prefix = prefix.rstrip(_ELLIPSIS) if isinstance(prefix, str) else ""
    return BookedEvent(id_, type_, at, abs(usd), prefix)


def _usd(params: Mapping[str, Any]) -> Decimal | None:
    micros, cents = decimal_of(params.get("charge_micro_usd")), decimal_of(params.get("amount"))
    if micros is not None:
        return micros / 1_000_000
    return None if cents is None else cents / 100


def _booked_at(event: object) -> int | None:
    return ms_of(field_of(event, "createdAt"), UTC)
