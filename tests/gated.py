"""A node that runs for as long as a test wants."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.simulator.nodes import NodeClass
from proxy.simulator.nodes.node_class import Context, Output

GRAPH = {"1": {"class_type": "TestGate", "inputs": {}}}


def gate(opened: asyncio.Event) -> NodeClass:
    """The class of the node of `GRAPH`, for a simulator's `extra_nodes`."""

    async def run(_inputs: dict[str, Any], _context: Context) -> Output:
        await opened.wait()
        return Output(ui={"text": ["open"]})

    return NodeClass("TestGate", run, output_node=True)
