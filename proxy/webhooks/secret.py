"""The secrets that sign messages, as Standard Webhooks writes them."""

from __future__ import annotations

import base64

from proxy.runtime import randomness

PREFIX = "whsec_"
_BYTES = 32


def new_secret() -> str:
    """Return a new secret: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(randomness.token_bytes(_BYTES)).decode()


def new_id() -> str:
    """Return the id of a new endpoint."""
    return f"wh_{randomness.token_hex(8)}"
