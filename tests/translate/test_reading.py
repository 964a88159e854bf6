"""Tests of the reading of JSON whose form nobody guarantees."""

from __future__ import annotations

import pytest

from proxy.translate import reading


@pytest.mark.parametrize("value", [None, 7, "text", ["item"]])
def test_anything_but_an_object_reads_as_an_empty_object(value: object) -> None:
    assert reading.object_of(value) == {}


@pytest.mark.parametrize("value", [None, 7, "text", {"key": 1}])
def test_anything_but_a_list_reads_as_an_empty_list(value: object) -> None:
    assert reading.list_of(value) == []


def test_the_objects_of_a_list_leave_out_what_is_none() -> None:
    assert reading.objects_of([{"a": 1}, "text", None, {}]) == [{"a": 1}, {}]


def test_a_field_is_found_by_its_names_from_the_outside_to_the_inside() -> None:
    assert reading.field_of({"a": {"b": "c"}}, "a", "b") == "c"


@pytest.mark.parametrize("value", [None, [], {}, {"a": None}, {"a": "text"}, {"a": {}}])
def test_a_field_of_what_has_none_is_none(value: object) -> None:
    assert reading.field_of(value, "a", "b") is None
