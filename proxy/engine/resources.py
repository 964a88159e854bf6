"""What the lives of jobs use beside the cloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.costs.job_cost import Pricing
from proxy.engine.run_times import RunTimes
from proxy.engine.spending_gate import SpendingGate
from proxy.jobs.models import Job
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.loop_turns import LoopTurns

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.service import Files
    from proxy.translate.packs import NodePacks


@dataclass(frozen=True)
class JobResources:
    """What the lives of jobs use beside the cloud.

    `pricing` says what jobs cost, `run_times` are those of earlier runs; messages that are kept for
    repetition take their memory from the `budget`. Jobs pass the `gate` before they are sent. What
    accounts send is taken in `loop_turns`.
    """

    files: Files
    catalog: Catalog
    packs: NodePacks
    pricing: Pricing
    run_times: RunTimes
    budget: MemoryBudget
    gate: SpendingGate | None = None
    loop_turns: LoopTurns = field(default_factory=LoopTurns)

    def output_nodes(self, job: Job, node_errors: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the output nodes of a job that passed validation, as far as the catalog knows the
        classes."""
        spoilt, targets = set(node_errors), job.loaded.targets
        for about in node_errors.values():
            spoilt.update(str(node) for node in about["dependent_outputs"])
        return tuple(
            node_id
            for node_id, node in job.graph.items()
            if node_id not in spoilt
            and (targets is None or node_id in targets)
            and isinstance(node, dict)
            and (self.catalog.known(str(node.get("class_type"))) or {}).get("output_node")
        )
