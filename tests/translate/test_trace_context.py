"""The header `traceparent`."""

from __future__ import annotations

import pytest

from proxy.translate.trace_context import trace_headers, trace_of

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("header", [TRACE, TRACE[:-2] + "ff", "cc" + TRACE[2:]])
def test_a_valid_header_is_kept_as_it_is(header: str) -> None:
    assert trace_of(header) == header


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TRACE[:-1],
        f"{TRACE}-what-the-future-will-be-like",
        f"{TRACE}\n",
        TRACE.upper(),
        "ff" + TRACE[2:],
        TRACE.replace("-", "_"),
        TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        TRACE.replace("00f067aa0ba902b7", "0" * 16),
        TRACE.replace("4bf9", "\uff14bf9"),
        TRACE.replace("4bf9", "xxxx"),
    ],
)
def test_another_one_is_none(header: str | None) -> None:
    assert trace_of(header) == ""


def test_without_a_trace_there_is_no_header() -> None:
    assert (trace_headers(""), trace_headers(TRACE)) == ({}, {"traceparent": TRACE})
