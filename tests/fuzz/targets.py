"""All targets."""

from __future__ import annotations

from fuzz import (
    targets_cloud,
    targets_files,
    targets_graphs,
    targets_requests,
    targets_settings,
    targets_v2,
)
from fuzz.harness import TARGETS

__all__ = [
    "TARGETS",
    "targets_cloud",
    "targets_files",
    "targets_graphs",
    "targets_requests",
    "targets_settings",
    "targets_v2",
]
