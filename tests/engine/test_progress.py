"""How far a job is, weighed by the times of earlier runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.progress import (
    Expected,
    RunProgress,
    expected,
)

CLASSES = {"1": "Load", "2": "Sample", "3": "Save"}


@pytest.mark.parametrize(
    ("by_shape", "by_class", "times", "measured"),
    [
        (None, {}, {"1": 1, "2": 1, "3": 1}, False),
        ({"1": 500, "2": 9000, "3": 0}, {"Load": 1}, {"1": 500, "2": 9000, "3": 1}, True),
        ({"2": 9000}, {"Load": 300}, {"1": 300, "2": 9000, "3": 4650}, True),
        (None, {"Sample": 7000}, {"1": 7000, "2": 7000, "3": 7000}, False),
    ],
    ids=["nothing known", "same shape", "in part", "one class"],
)
def test_what_a_node_is_expected_to_take(
    by_shape: dict[str, float] | None,
    by_class: dict[str, float],
    times: dict[str, float],
    measured: bool,
) -> None:
    assert expected(CLASSES, by_shape, by_class) == Expected(times, measured)


@pytest.mark.parametrize(
    ("done", "spared", "running", "share", "remaining"),
    [
        ({}, (), (), 0.0, 10_000),
        ({"1": 1.0}, (), (), 0.1, 9_000),
        ({"1": 1.0, "2": 0.5}, (), (), 0.5, 5_000),
        ({"2": 0.5}, ("1",), (), 4 / 9, 5_000),
        ({"1": 1.0}, (), [("2", 4_000.0)], 0.5, 5_000),
        ({"1": 1.0, "2": 0.25}, (), [("2", 6_000.0)], 5 / 18, 13_000),
        ({"1": 1.0, "2": 0.5}, (), [("2", 30_000.0)], 0.5, 31_000),
        ({"1": 1.0}, (), [("2", 90_000.0)], 0.86, 1_400),
        ({"1": 1.0, "2": 1.0, "3": 1.0, "sub:4": 1.0}, (), (), 1.0, 0),
        ({}, ("1", "2", "3"), (), 0.0, 0),
    ],
)
def test_progress_is_the_part_of_the_time(
    done: dict[str, float], spared: tuple[str, ...], running: Any, share: float, remaining: float
) -> None:
    progress = RunProgress(Expected({"1": 1000, "2": 8000, "3": 1000}, measured=True))
    progress.advance(done, spared, running)
    assert progress.share == pytest.approx(share)
    assert progress.remaining == pytest.approx(remaining)


def test_without_an_earlier_run_of_the_shape_there_is_no_estimate() -> None:
    progress = RunProgress(Expected({"1": 1000}))
    progress.advance({"1": 0.5})
    assert (progress.share, progress.remaining) == (0.5, None)


_TIMES = st.dictionaries(st.sampled_from("12345"), st.floats(0, 1e9), max_size=5)
_STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("123456"), st.floats(-1, 2), max_size=6),
        st.sets(st.sampled_from("12345")),
        st.lists(st.tuples(st.sampled_from("12345"), st.floats(-1e6, 1e9)), max_size=2),
    )
)


@given(_TIMES, _STEPS)
def test_progress_stays_within_0_and_1_and_never_goes_back(
    times: dict[str, float], steps: list[Any]
) -> None:
    classes = {node: node for node in "12345"}
    progress, before = RunProgress(expected(classes, times, {})), 0.0
    for step in steps:
        progress.advance(*step)
        assert 0.0 <= before <= progress.share <= 1.0
        assert progress.remaining is not None
        assert progress.remaining >= 0.0
        before = progress.share


@given(_TIMES)
def test_a_job_whose_nodes_are_all_done_is_done(times: dict[str, float]) -> None:
    progress = RunProgress(expected({node: node for node in "12345"}, times, {}))
    progress.advance(dict.fromkeys("12345", 1.0))
    assert progress.share == pytest.approx(1.0)
