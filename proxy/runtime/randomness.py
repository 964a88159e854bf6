"""Random numbers, names and secrets: no other module of the server draws one.

All come from the operating system, fit for secrets. A simulation puts its own generator in the
place of `source`.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")

source: random.Random = random.SystemRandom()


def token_bytes(count: int) -> bytes:
    """Return random bytes."""
    return source.randbytes(count)


def token_hex(count: int) -> str:
    """Return `count` random bytes in hexadecimal."""
    return source.randbytes(count).hex()


def token_urlsafe(count: int) -> str:
    """Return `count` random bytes in URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(source.randbytes(count)).rstrip(b"=").decode()


def uuid4() -> UUID:
    """Return a random UUID."""
    return UUID(bytes=source.randbytes(16), version=4)


def uniform(low: float, high: float) -> float:
    """Return a random number between two."""
    return source.uniform(low, high)


def randbelow(limit: int) -> int:
    """Return a random integer from 0 to `limit - 1`."""
    return source.randrange(limit)


def choice(items: Sequence[T]) -> T:
    """Return one of the items."""
    return source.choice(items)
