"""Usage and costs as CSV. Amounts are in credits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from proxy.admin.schema.usage import CostOfDay, UsageShown, cost_of_day, usage_shown
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRow


def usage_csv(rows: Iterable[UsageRow]) -> str:
    """Return usage as CSV: a line of names, and a line for each day, member and token."""
    return _csv([*UsageShown.__annotations__], map(usage_shown, rows))


def costs_csv(rows: Iterable[CostRow]) -> str:
    """Return costs as CSV: a line of names, and a line for each day, member, account, node class
    and source."""
    return _csv([*CostOfDay.__annotations__], map(cost_of_day, rows))


def _csv(names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    lines = csv.DictWriter(text, names, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue()
