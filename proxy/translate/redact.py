"""Secrets taken out of values that clients see."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")

REDACTED = "[REDACTED]"

#: Keys of `extra_data` that carry a credential for partner nodes.
CREDENTIAL_KEYS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


def redact(value: T, secret: str) -> T:
    """`value` with every occurrence of `secret` in its strings replaced; keys stay."""
    cleaned: Any = value
    if isinstance(value, str):
        cleaned = value.replace(secret, REDACTED) if secret in value else value
    elif isinstance(value, dict):
        cleaned = {key: redact(item, secret) for key, item in value.items()}
    elif isinstance(value, list):
        cleaned = [redact(item, secret) for item in value]
    return cleaned  # type: ignore[no-any-return]


def without_credentials(extra_data: dict[str, Any]) -> dict[str, Any]:
    """`extra_data` as it may be shown and kept."""
    return {key: value for key, value in extra_data.items() if key not in CREDENTIAL_KEYS}
