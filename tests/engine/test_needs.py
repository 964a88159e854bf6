"""What a job needs of its account is what the catalog finds in its graph."""

from __future__ import annotations

from typing import Any

import pytest
from jobs.samples import job

from proxy.engine.needs import needs_of
from proxy.jobs.models import Needs
from proxy.translate.packs import Rewriting

GRAPH = {"1": {"class_type": "Client"}}
REWRITTEN = {"1": {"class_type": "Cloud"}}


class Catalog:
    """A catalog in which one account alone has a class."""

    def accounts_for(self, graph: Any) -> tuple[frozenset[str], str] | None:
        name = graph["1"]["class_type"]
        return (frozenset({"two"}), name) if name == "Cloud" else None


@pytest.mark.parametrize(
    ("rewriting", "expected"),
    [(None, None), (Rewriting(REWRITTEN), Needs(frozenset({"two"}), "Cloud"))],
    ids=["as sent", "rewritten"],
)
def test_the_graph_counts_that_the_cloud_runs(
    rewriting: Rewriting | None, expected: Needs | None
) -> None:
    catalog: Any = Catalog()
    assert needs_of(job(graph=GRAPH, rewriting=rewriting), catalog) == expected
