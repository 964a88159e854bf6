"""The JSON of what was used and what it cost: `/proxy/api/usage` and `billing`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, cast

from proxy.costs.balances import Balance
from proxy.costs.credits import Source, to_credits
from proxy.members.tokens import shown_id
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRow


class UsageShown(TypedDict):
    """What a member used on a day. `token` is the beginning of the token that it was used with,
    empty without one. What jobs cost is in credits, by its source; `unknown_costs` counts partner
    nodes without a known price."""

    day: str
    member: str
    token: str
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
    or, with an empty class, `seconds` on the GPU. `token` is the beginning of the token that they
    were sent with, empty without one."""

    day: str
    member: str
    token: str
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


class AccountBalance(TypedDict):
    """What is left on an account."""

    name: str
    balance: BalanceShown


class BalancesShown(TypedDict):
    """What is left on the accounts."""

    accounts: list[AccountBalance]


def usage_shown(row: UsageRow) -> UsageShown:
    """Return a row of usage."""
    return {
        "day": row.day,
        "member": row.member,
        "token": shown_id(row.token),
        "submitted": row.submitted,
        "withdrawn": row.withdrawn,
        "completed": row.completed,
        "failed": row.failed,
        "cancelled": row.cancelled,
        "running_seconds": round(row.running_seconds, 3),
        "outputs": row.outputs,
        "bytes_up": row.bytes_up,
        "bytes_down": row.bytes_down,
        "credits_reported": to_credits(row.credits_reported),
        "credits_estimated": to_credits(row.credits_estimated),
        "unknown_costs": row.unknown_costs,
    }


def cost_of_day(row: CostRow) -> CostOfDay:
    """Return a row of costs."""
    return {
        "day": row.day,
        "member": row.member,
        "token": shown_id(row.token),
        "account": row.account,
        "node_class": row.node_class,
        "source": cast(Source, row.source),
        "credits": to_credits(row.amount),
        "nodes": row.nodes,
        "seconds": round(row.seconds, 3),
    }


def balance_shown(name: str, balance: Balance) -> AccountBalance:
    """Return an account's balance."""
    return {
        "name": name,
        "balance": {
            "credits": None if balance.amount is None else to_credits(balance.amount),
            "text": balance.text,
            "source": balance.source,
            "at": balance.at,
        },
    }
