"""The databases of the tests of this folder, and the assets in one."""

from __future__ import annotations

import pytest
from databases import database, empty_database, postgresql, postgresql_server
from storage.asset_records import Assets

from proxy.storage.database import Database

__all__ = ["database", "empty_database", "postgresql", "postgresql_server"]


@pytest.fixture
def assets(database: Database) -> Assets:
    return Assets(database)
