"""Members, tokens, usage and costs as the admin API and the commands show them.

Amounts are in credits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict

from proxy.costs.credits import to_credits
from proxy.members.directory import Directory
from proxy.members.member import Member
from proxy.members.tokens import Token
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRow

_USAGE = UsageRow.__struct_fields__
_COSTS = ("day", "member", "account", "node_class", "source", "credits", "nodes", "seconds")


def usage_values(row: UsageRow) -> dict[str, Any]:
    """Return the fields of a row of usage, costs in credits."""
    return {
        **asdict(row),
        "running_seconds": round(row.running_seconds, 3),
        "credits_reported": to_credits(row.credits_reported),
        "credits_estimated": to_credits(row.credits_estimated),
    }


def cost_values(row: CostRow) -> dict[str, Any]:
    """Return the fields of a row of costs, which are in credits."""
    values = {**asdict(row), "credits": to_credits(row.amount), "seconds": round(row.seconds, 3)}
    return {name: values[name] for name in _COSTS}


def usage_csv(rows: Iterable[UsageRow]) -> str:
    """Return usage as CSV: a line of names, and a line for each day and member."""
    return _csv(_USAGE, map(usage_values, rows))


def costs_csv(rows: Iterable[CostRow]) -> str:
    """Return costs as CSV: a line of names, and a line for each day, member, account, node class
    and source."""
    return _csv(_COSTS, map(cost_values, rows))


def _csv(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    lines = csv.DictWriter(text, names, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue()


def describe_member(directory: Directory, member: Member) -> dict[str, Any]:
    """Return a member as the admin API shows it."""
    return {**msgspec.to_builtins(member), "tokens": len(directory.tokens(member.name))}


def describe_token(directory: Directory, token: Token) -> dict[str, Any]:
    """Return a token as the admin API shows it, without its digest."""
    use = directory.last_use(token)
    return {
        "id": token.id,
        "shown": token.shown,
        "member": token.member,
        "note": token.note,
        "created": token.created,
        "expires": token.expires,
        "last_used": None if use is None else use._asdict(),
    }
