"""User files as the cloud describes them."""

from __future__ import annotations

import pytest

from proxy.translate.user_files import UserFile, user_file


@pytest.mark.parametrize(
    ("modified", "seconds"),
    [
        (1795527652920, 1795527652.92),
        (1795527652.92, 1795527652.92),
        ("2026-11-24T13:40:52.920+00:00", 1795527652.92),
        ("2026-11-24T13:40:52.920Z", 1795527652.92),
        ("2026-11-24T13:40:52.920", 1795527652.92),
        ("yesterday", 0.0),
        (None, 0.0),
        (True, 0.0),
        (float("nan"), 0.0),
        (float("inf"), 0.0),
    ],
)
def test_times_are_seconds_whatever_the_cloud_says(modified: object, seconds: float) -> None:
    found = user_file({"path": "a", "size": 1, "modified": modified})
    assert found is not None
    assert found.modified == pytest.approx(seconds)


@pytest.mark.parametrize("item", [{}, {"path": ""}, {"path": "/"}, {"path": 7}])
def test_what_has_no_path_is_no_file(item: dict[str, object]) -> None:
    assert user_file(item) is None


@pytest.mark.parametrize("size", [None, "1", True, 1.5])
def test_a_size_that_is_none_is_nothing(size: object) -> None:
    assert user_file({"path": "/a/b/", "size": size}) == UserFile("a/b", 0, 0.0)
