"""The schema of the first release, which no revision leads to: `metadata` creates it."""

from __future__ import annotations

revision = "0001"
down_revision = None
