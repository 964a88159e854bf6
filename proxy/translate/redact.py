"""Secrets taken out of values that clients see."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")

REDACTED = "[REDACTED]"

#: Keys of `extra_data` that carry a credential for partner nodes.
CREDENTIAL_KEYS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


def redact(value: T, *secrets: str) -> T:
    """`value` with every occurrence of a secret in its strings, keys included, replaced."""
    cleaned: Any = value
    if isinstance(value, str):
        for secret in secrets:
            cleaned = cleaned.replace(secret, REDACTED) if secret else cleaned
    elif isinstance(value, dict):
        cleaned = {redact(key, *secrets): redact(item, *secrets) for key, item in value.items()}
    elif isinstance(value, list):
        cleaned = [redact(item, *secrets) for item in value]
    return cleaned  # type: ignore[no-any-return]


def credentials(extra_data: dict[str, Any]) -> tuple[str, ...]:
    """The credentials that a client sent for partner nodes."""
    found = (extra_data.get(key) for key in sorted(CREDENTIAL_KEYS))
    return tuple(value for value in found if isinstance(value, str) and value)


def without_credentials(extra_data: dict[str, Any]) -> dict[str, Any]:
    """`extra_data` as it may be shown and kept."""
    return {key: value for key, value in extra_data.items() if key not in CREDENTIAL_KEYS}
