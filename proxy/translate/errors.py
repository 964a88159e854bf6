"""Errors in ComfyUI's own form, and how the cloud's become them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LocalError(Exception):
    """A refusal to a client: an HTTP status and the body of ComfyUI's prompt errors.

    `headers` are sent with the answer (for example `Retry-After`).
    """

    def __init__(
        self,
        status: int,
        type_: str,
        message: str,
        *,
        details: str = "",
        extra_info: Mapping[str, Any] | None = None,
        node_errors: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.message = message
        self.details = details
        self.extra_info = dict(extra_info or {})
        self.node_errors = dict(node_errors or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """`{"error": {type, message, details, extra_info}, "node_errors": {}}`."""
        return {
            "error": {
                "type": self.type,
                "message": self.message,
                "details": self.details,
                "extra_info": self.extra_info,
            },
            "node_errors": self.node_errors,
        }
