"""Jobs name no addresses for messages any more."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Delete the endpoints for such addresses with their deliveries."""
    op.execute("DELETE FROM webhook_deliveries WHERE url <> ''")
    op.execute("DELETE FROM webhooks WHERE url = ''")
    op.drop_column("webhook_deliveries", "url")
