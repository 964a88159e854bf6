"""Jobs and accounts over time are in the metrics alone."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Drop the tables of intervals."""
    for table in ("activity", "account_activity"):
        op.drop_table(table)
