"""What errors say, and what they know."""

from __future__ import annotations

import pytest

from proxy.cloud.errors import CloudRefused, CloudUnauthorized, refusal


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"error": {"type": "PAYMENT_REQUIRED", "message": "No credits"}},
            "PAYMENT_REQUIRED No credits",
        ),
        ({"code": "NOT_FOUND", "message": "no such job"}, "NOT_FOUND no such job"),
        ({"error": "plain words"}, "plain words"),
        ("two\nlines", "two lines"),
        ("<html>a gateway's page</html>", ""),
        ([1], ""),
    ],
)
def test_a_refusal_says_in_one_line_what_the_cloud_said(body: object, said: str) -> None:
    error = refusal("GET /x", 402, body, None)
    assert str(error) == (f"GET /x: 402: {said}" if said else "GET /x: 402")
    assert (error.status, error.body) == (402, body)


def test_401_has_its_own_class() -> None:
    assert type(refusal("GET /x", 401, "", None)) is CloudUnauthorized
    assert type(refusal("GET /x", 403, "", None)) is CloudRefused
