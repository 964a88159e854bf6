"""User files as the cloud describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proxy.translate.snapshot import milliseconds


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file by its path; `size` in bytes, `modified` in seconds since 1970 (0: not told)."""

    path: str
    size: int
    modified: float


def user_file(item: Mapping[str, Any]) -> UserFile | None:
    """`{"path", "size", "modified"}` as the cloud sends it, `None` for what has no path.

    The documents of the cloud disagree on `modified`: whole ms, float seconds, or RFC 3339.
    """
    path, size = item.get("path"), item.get("size")
    if not isinstance(path, str) or not path.strip("/"):
        return None
    whole = size if isinstance(size, int) and not isinstance(size, bool) else 0
    return UserFile(path.strip("/"), whole, _seconds(item.get("modified")))


def _seconds(value: object) -> float:
    if isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    ms = milliseconds(value)
    return 0.0 if ms is None else ms / 1000
