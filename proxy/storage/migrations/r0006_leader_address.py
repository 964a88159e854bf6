"""Leases say where their holder is reached."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("leases", sa.Column("address", sa.Text, nullable=False, server_default=""))
