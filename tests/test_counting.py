"""Histograms that cost next to nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.counting import Histogram


def test_a_value_is_counted_by_every_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert (histogram.sum, histogram.count) == (10.0, 4)


@given(st.lists(st.floats(0, 1e6)))
def test_buckets_grow_and_end_with_the_count(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    counts = [count for _, count in histogram.buckets()]
    assert counts == sorted(counts)
    assert counts[-1] == histogram.count == len(values)
