"""Secrets taken out of values that clients see."""

from __future__ import annotations

from typing import Any

REDACTED = "[REDACTED]"

#: Keys of `extra_data` that carry a credential for partner nodes.
CREDENTIAL_KEYS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


def redact(value: Any, secret: str) -> Any:
    """`value` with every occurrence of `secret` in its strings replaced; keys stay."""
    if isinstance(value, str):
        return value.replace(secret, REDACTED) if secret in value else value
    if isinstance(value, dict):
        return {key: redact(item, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item, secret) for item in value]
    return value


def without_credentials(extra_data: dict[str, Any]) -> dict[str, Any]:
    """`extra_data` as it may be shown and kept."""
    return {key: value for key, value in extra_data.items() if key not in CREDENTIAL_KEYS}
