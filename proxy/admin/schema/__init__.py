"""The JSON that `/proxy/api` answers with, as types. `docs/openapi.json` is drawn from them.

Times are ms since 1970. Types of what members and tokens are made of are in
`proxy/members/member.py`. A refusal is the same everywhere.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Error(TypedDict):
    """What is wrong: a `type` of docs/troubleshooting.md and a sentence that says what to do."""

    type: str
    message: str
    details: str
    extra_info: dict[str, Any]


class RefusalBody(TypedDict):
    """A refusal, in the form of ComfyUI's."""

    error: Error
    node_errors: Any
