"""Times as texts of RFC 3339, which the APIs of the cloud and of ComfyUI's assets have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

_START = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(microseconds: float, timespec: str = "auto") -> str:
    """Return a time since 1970 in UTC; the web interface takes no other zone than `Z`.

    `timespec` is that of `datetime.isoformat`.
    """
    at = _START + timedelta(microseconds=microseconds)
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")


def time_of(text: object, zone: tzinfo | None = None) -> datetime | None:
    """Return a time, `None` for what is none. A text without a zone is a time in `zone`."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    if at is None or (at.tzinfo or zone) is None:
        return None
    return at.replace(tzinfo=at.tzinfo or zone)


def ms_of(text: object, zone: tzinfo | None = None) -> int | None:
    """Return a time in ms since 1970, as `time_of`."""
    at = time_of(text, zone)
    return None if at is None else int(at.timestamp() * 1000)
