"""The first schema, which is in `tables.py` alone: a new database gets the tables from there."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: no database is older."""
