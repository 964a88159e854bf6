"""The databases of the tests of this folder."""

from databases import database, empty_database, postgresql, postgresql_server

__all__ = ["database", "empty_database", "postgresql", "postgresql_server"]
