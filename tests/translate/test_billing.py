"""What the cloud has booked, with units that their names hide."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.billing import BookedEvent, booked_event, page_of

AT = 1_795_636_800_000
EVENT = {
    "event_id": "e1",
    "event_type": "gpu_usage",
    "createdAt": "2026-11-25T20:00:00Z",
    "params": {"charge_micro_usd": 12_950},
}


def event(**changed: Any) -> dict[str, Any]:
    return {**EVENT, **changed}


@pytest.mark.parametrize(
    ("params", "usd"),
    [
        ({"charge_micro_usd": 12_950}, "0.01295"),
        ({"charge_micro_usd": "12950"}, "0.01295"),
        ({"amount": 5}, "0.05"),
        ({"amount": "0.5"}, "0.005"),
        ({"amount": 1, "charge_micro_usd": 12_950}, "0.01295"),
        ({"amount": -5}, "0.05"),
        ({"charge_micro_usd": 0}, "0"),
        ({"amount": 7, "charge_micro_usd": None}, "0.07"),
    ],
)
def test_micros_of_charges_are_real_ones_and_amounts_are_cents(
    params: dict[str, Any], usd: str
) -> None:
    found = booked_event(event(params=params))
    assert found is not None
    assert found.usd == Decimal(usd)


@pytest.mark.parametrize(
    "unread",
    [
        None,
        [],
        event(event_id=""),
        event(event_id=7),
        event(event_type="credit_added"),
        event(event_type=None),
        event(createdAt="yesterday"),
        event(createdAt=AT),
        event(event_type=["gpu_usage"]),
        event(params=None),
        event(params={}),
        event(params={"amount": True}),
        event(params={"charge_micro_usd": "NaN"}),
        event(params={"charge_micro_usd": 10**20}),
    ],
)
def test_an_event_without_id_time_or_amount_is_none_of_spending(unread: object) -> None:
    assert booked_event(unread) is None


@pytest.mark.parametrize(
    "text",
    ["2026-11-25T20:00:00Z", "2026-11-25T20:00:00", "2026-11-25T21:00:00.000+01:00"],
)
def test_a_time_is_read_with_its_zone(text: str) -> None:
    found = booked_event(event(createdAt=text))
    assert found is not None
    assert found.at == AT


KEY = "comfyui-0123456789abcdef"


@pytest.mark.parametrize(
    ("prefix", "is_ours"),
    [
        ("comfyui-0123", True),
        ("comfyui-0123...", True),
        ("comfyui-0123…", True),
        (KEY, True),
        ("comfyui-9", False),
        ("comfyui-99999", False),
        ("comfyui-", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_the_prefix_of_a_key_says_whose_event_it_is(prefix: object, is_ours: bool) -> None:
    found = booked_event(event(api_key_prefix=prefix))
    assert found is not None
    assert found.is_of(KEY) is is_ours


def test_a_page_counts_what_is_no_spending_too() -> None:
    paid = event(event_type="topup_completed", createdAt="2026-11-25T19:00:00Z")
    page = page_of({"events": [EVENT, paid, 7], "total": "103", "totalPages": 2})
    assert page is not None
    assert page.spending == (BookedEvent("e1", "gpu_usage", AT, Decimal("0.01295")),)
    assert (page.count, page.oldest, page.total) == (3, AT - 3_600_000, 103)


def test_an_answer_without_events_is_no_page() -> None:
    assert page_of({}) is None
    assert page_of({"events": {}}) is None
    assert page_of({"events": []}) is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "events": JSON
            | st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "event_id": JSON,
                        "event_type": st.just("gpu_usage") | JSON,
                        "createdAt": st.datetimes().map(str) | JSON,
                        "params": st.dictionaries(
                            st.sampled_from(["amount", "charge_micro_usd"]), JSON
                        )
                        | JSON,
                        "api_key_prefix": JSON,
                    },
                )
            ),
            "total": JSON,
        }
    )
)
def test_any_answer_is_a_page_or_none(answer: dict[str, Any]) -> None:
    page = page_of(answer)
    assert page is None or all(found.usd >= 0 for found in page.spending)
