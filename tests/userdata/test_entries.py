"""What names of user data mean."""

from __future__ import annotations

import pytest

from proxy.userdata.entries import BadNameError, LeadsOutError, parts_of


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.json", ("a.json",)),
        ("workflows/a.json", ("workflows", "a.json")),
        ("workflows%2Fa.json", ("workflows", "a.json")),
        ("workflows\\a.json", ("workflows", "a.json")),
        ("./a//b/", ("a", "b")),
        ("a/../b", ("b",)),
        (".", ()),
        ("..a", ("..a",)),
        ("100%", ("100%",)),
    ],
)
def test_a_name_is_the_way_to_a_file(name: str, parts: tuple[str, ...]) -> None:
    assert parts_of(name) == parts


@pytest.mark.parametrize("name", ["..", "a/../..", "/a", "\\a", "%2e%2e/x", "//server/share"])
def test_a_way_out_is_refused(name: str) -> None:
    with pytest.raises(LeadsOutError):
        parts_of(name)


@pytest.mark.parametrize("name", ["a\0b", "a%00b", "x" * 256, "é" * 128, "/".join("a" * 101)])
def test_some_names_are_nobodys(name: str) -> None:
    with pytest.raises(BadNameError):
        parts_of(name)
