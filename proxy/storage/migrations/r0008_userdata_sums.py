"""The row of a member's folder says what all that the member has stored counts for."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Sum it up once."""
    op.execute(
        "UPDATE userdata SET size = (SELECT COALESCE(SUM(CASE WHEN one.size < 4096 THEN 4096 "
        "ELSE one.size END), 0) FROM userdata AS one WHERE one.member = userdata.member "
        "AND one.path <> '/') WHERE path = '/'"
    )
