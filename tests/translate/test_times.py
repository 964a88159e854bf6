"""Tests of times as texts of RFC 3339."""

from __future__ import annotations

from datetime import UTC

import pytest

from proxy.translate.times import ms_of, rfc3339


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_764_547_200_000_000, "2025-12-01T00:00:00Z"),
        (1_764_547_200_123_456, "2025-12-01T00:00:00.123456Z"),
        (1_764_547_200_123_000.0, "2025-12-01T00:00:00.123000Z"),
    ],
)
def test_a_time_is_written_in_utc_with_z(microseconds: float, text: str) -> None:
    assert rfc3339(microseconds) == text


def test_milliseconds_are_written_also_where_there_are_none() -> None:
    assert rfc3339(0, "milliseconds") == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2025-12-01T00:00:00Z", 1_764_547_200_000),
        ("2025-12-01T01:00:00.5+01:00", 1_764_547_200_500),
        ("2025-12-01T00:00:00", None),
        ("yesterday", None),
        (1_764_547_200_000, None),
        (None, None),
    ],
)
def test_only_a_time_with_a_zone_is_read(text: object, ms: int | None) -> None:
    assert ms_of(text) == ms


def test_a_time_without_a_zone_is_in_the_zone_that_is_named() -> None:
    assert ms_of("2025-12-01T00:00:00", UTC) == 1_764_547_200_000
