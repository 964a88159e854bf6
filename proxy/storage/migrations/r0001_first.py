"""The first schema, which is in the tables alone: a new database gets it from there."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: no database is older."""
