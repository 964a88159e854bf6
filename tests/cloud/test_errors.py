"""What errors say, and what they know."""

from __future__ import annotations

import pytest

from proxy.cloud.errors import CloudRefused, CloudUnauthorized, refusal, retry_after


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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("soon", None),
        ("inf", None),
        ("-3", None),
        ("nan", None),
        ("\u0663", None),
        ("86400", 60.0),
        ("9" * 5000, 60.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=1000.0) == seconds
