"""JSON that is nested too deeply for what walks through it."""

from __future__ import annotations

import pytest

from proxy.api import bodies


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_deep_json_is_refused_before_anything_walks_through_it() -> None:
    with pytest.raises(bodies.NotJsonError) as raised:
        bodies.parse(nested(400), None)
    assert "300 levels" in raised.value.details


def test_wide_json_is_not_deep() -> None:
    wide = b"[" + b",".join([b"[{}]"] * 1000) + b"]"
    assert len(bodies.parse(wide, None)) == 1000


def test_as_deep_as_people_write_is_taken() -> None:
    bodies.parse(nested(250), None)
