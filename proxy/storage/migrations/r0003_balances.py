"""What the cloud has booked is not kept any more, only what admins have entered as left."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from proxy.storage.tables import AnyText

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Keep the entered balances in a table of their own, and drop the others."""
    op.create_table(
        "balances",
        sa.Column("account", AnyText, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("spent_before", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO balances SELECT account, entered, entered_at, spent_before FROM billing "
        "WHERE entered IS NOT NULL AND entered_at IS NOT NULL AND spent_before IS NOT NULL"
    )
    for table in ("billing", "booked", "booked_events"):
        op.drop_table(table)
