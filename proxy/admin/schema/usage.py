"""The JSON of what was used and what it cost: `/proxy/api/usage`, `billing` and `activity`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from proxy.costs.credits import Source


class UsageShown(TypedDict):
    """What a member used on a day. What jobs cost is in credits, by its source; `unknown_costs`
    counts partner nodes without a known price."""

    day: str
    member: str
    submitted: int
    withdrawn: int
    completed: int
    failed: int
    cancelled: int
    running_seconds: float
    outputs: int
    bytes_up: int
    bytes_down: int
    credits_reported: float
    credits_estimated: float
    unknown_costs: int


class CostOfDay(TypedDict):
    """What a member's jobs have cost on an account on a day: runs of `nodes` of a partner class,
    or, with an empty class, `seconds` on the GPU."""

    day: str
    member: str
    account: str
    node_class: str
    source: Source
    credits: float
    nodes: int
    seconds: float


#: With `rows=costs` it has `costs`, otherwise `usage`.
Usage = TypedDict(
    "Usage",
    {
        "from": str,
        "to": str,
        "usage": NotRequired[list[UsageShown]],
        "costs": NotRequired[list[CostOfDay]],
    },
)


class BalanceShown(TypedDict):
    """What is left on an account, less costs since an admin has `entered` it `at` a time. `text` is
    what Comfy Cloud reports, in its currency."""

    credits: float | None
    text: str
    source: Literal["reported", "entered", "unknown"]
    at: int | None


class DayBilled(TypedDict):
    """What jobs have cost on a day (UTC), and what Comfy Cloud has booked, in credits."""

    day: str
    ledger: float
    booked: float | None
    difference: float | None


class AccountBilled(TypedDict):
    """What an account was billed. `access` says whether Comfy Cloud lets its key read that, and
    `read_to` until when it was read. The sums are of the days that were read."""

    name: str
    access: Literal["allowed", "refused", "unknown"]
    read_to: int | None
    balance: BalanceShown
    ledger: float | None
    booked: float | None
    difference: float | None
    days: list[DayBilled]


BillingShown = TypedDict("BillingShown", {"from": str, "to": str, "accounts": list[AccountBilled]})


class ActivityPoint(TypedDict):
    """Jobs in an interval: the most at once, those that ended, and the seconds that they ran."""

    at: int
    running: int
    waiting: int
    completed: int
    failed: int
    busy: float


class AccountPoint(TypedDict):
    """An account in an interval."""

    at: int
    slots: int
    used: int
    reason: str | None


class AccountActivity(TypedDict):
    """An account over time."""

    name: str
    points: list[AccountPoint]


Activity = TypedDict(
    "Activity",
    {
        "range": Literal["1h", "24h", "7d"],
        "from": int,
        "to": int,
        "interval": int,
        "is_new": bool,
        "points": list[ActivityPoint],
        "account_interval": int,
        "accounts": list[AccountActivity],
    },
)
