"""The trace that a request belongs to (W3C Trace Context)."""

from __future__ import annotations

import re

#: The header with the version, the ids of the trace and of the caller's span, and flags, in
#: lower-case hexadecimal: https://www.w3.org/TR/trace-context/#traceparent-header.
TRACEPARENT = "traceparent"

#: Neither the version `ff` nor an id of zeros alone is valid.
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(header: str | None) -> str:
    """Return the value of a `traceparent`, of 55 characters; `""` for one that is not valid."""
    return header if header is not None and _FORM.fullmatch(header) else ""


def trace_headers(trace: str) -> dict[str, str]:
    """Return the headers that pass a trace on; none without one."""
    return {TRACEPARENT: trace} if trace else {}
