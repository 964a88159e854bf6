"""There are no invitations: an admin hands a token over as a link."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Drop their table."""
    op.drop_table("invitations")
