"""Usage as tables for people and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from msgspec.structs import asdict

from proxy.storage.usage import COUNTED, UsageRow


def usage_csv(rows: Iterable[UsageRow]) -> str:
    """Return usage as CSV: a line of names, and a line for each day and member."""
    text = io.StringIO()
    lines = csv.DictWriter(text, ("day", "member", *COUNTED), lineterminator="\n")
    lines.writeheader()
    lines.writerows(asdict(row) for row in rows)
    return text.getvalue()
