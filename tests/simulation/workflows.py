"""The workflows that clients send."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simulation.deployment import LOADER, OWN_CLASS, TEXT_CLASS

if TYPE_CHECKING:
    from simulation.plan import Plan

#: The classes of a deployment that may take the places of others.
_OWN = {"Filter": OWN_CLASS, "SaveImage": TEXT_CLASS}

#: The files that clients upload.
_FILES = ("first.latent", "second.latent")


def drawn(rng: random.Random, plan: Plan, *, partner: bool) -> dict[str, Any]:
    """Draw a workflow, which may need nodes of the plan's deployment, and an uploaded file where
    there is no other account."""
    graph = _drawn(rng, partner=partner)
    if plan.deployment is None:
        return graph
    own = random.Random(rng.random())
    if not plan.accounts and not partner and own.random() < 0.3:
        graph["1"] = {"class_type": LOADER, "inputs": {"latent": own.choice(_FILES)}}
    if not plan.accounts or own.random() < 0.5:
        for node in graph.values():
            class_type = node["class_type"]
            node["class_type"] = own.choice((class_type, _OWN.get(class_type, class_type)))
    return graph


def files_of(graph: Mapping[str, Any]) -> list[str]:
    """Return the files that a workflow reads."""
    return [node["inputs"]["latent"] for node in graph.values() if node["class_type"] == LOADER]


def _drawn(rng: random.Random, *, partner: bool) -> dict[str, Any]:
    source = "PartnerImage" if partner else "Paint"
    nodes: dict[str, Any] = {"1": {"class_type": source, "inputs": {"seed": rng.getrandbits(20)}}}
    for number in range(2, rng.randint(2, 4)):
        link = [str(number - 1), 0]
        nodes[str(number)] = {"class_type": "Filter", "inputs": {"image": link}}
    last = len(nodes)
    for number in range(rng.randint(1, 2)):
        nodes[str(last + 1 + number)] = {
            "class_type": "SaveImage",
            "inputs": {"images": [str(last), 0], "filename_prefix": "C"},
        }
    return nodes
