"""The cookies of a request."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.api.credentials import cookie


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("", None),
        ("name", None),
        ("name=", ""),
        ("name=a", "a"),
        ("other=b;name=a; more", "a"),
        (' name = "a=b" ', "a=b"),
        ("name=a; name=b", "b"),
        ("surname=a; x=name=a", None),
    ],
)
def test_the_value_of_a_cookie(header: str, value: str | None) -> None:
    assert cookie(make_mocked_request("GET", "/", headers={"Cookie": header}), "name") == value
