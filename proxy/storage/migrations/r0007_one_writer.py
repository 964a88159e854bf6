"""One process writes, so that nothing counts changes and ends for others."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Drop the columns."""
    op.drop_index("ix_history_member_ordinal", "history")
    op.drop_column("history", "ordinal")
    op.drop_column("jobs", "revision")
