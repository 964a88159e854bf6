"""Which output nodes of a job run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.jobs.models import Job
from proxy.members.member import KnownClass


def output_nodes(job: Job, node_errors: Mapping[str, Any], known: KnownClass) -> tuple[str, ...]:
    """Return the output nodes that passed validation, as far as the catalog knows the classes."""
    spoilt, targets = set(node_errors), job.loaded.targets
    for about in node_errors.values():
        spoilt.update(str(node) for node in about["dependent_outputs"])
    return tuple(
        node_id
        for node_id, node in job.graph.items()
        if node_id not in spoilt
        and (targets is None or node_id in targets)
        and isinstance(node, dict)
        and (known(str(node.get("class_type"))) or {}).get("output_node")
    )
