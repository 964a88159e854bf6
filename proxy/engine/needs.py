"""What a job names that not every account has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.jobs.models import Job, Needs

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog


def needs_of(job: Job, catalog: Catalog) -> Needs | None:
    """Return what a job needs of its account, as far as the catalog tells."""
    found = catalog.accounts_for(job.cloud_graph)
    return None if found is None else Needs(*found)
