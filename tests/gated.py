"""A node that runs for as long as a test wants."""

from __future__ import annotations

import asyncio
from typing import Any

from stack import Client

from proxy.simulator.nodes import NodeClass
from proxy.simulator.nodes.node_class import Context, Output

GRAPH = {"1": {"class_type": "TestGate", "inputs": {}}}


def gate(opened: asyncio.Event) -> NodeClass:
    """The class of the node of `GRAPH`, for a simulator's `extra_nodes`."""

    async def run(_inputs: dict[str, Any], _context: Context) -> Output:
        await opened.wait()
        return Output(ui={"text": ["open"]})

    return NodeClass("TestGate", run, output_node=True)


async def running_one(client: Client) -> str:
    """A job that the cloud runs, and that does not end before the gate is opened."""
    async with client.listening() as listener:
        prompt_id = await client.submit(GRAPH)
        await listener.until("executing", node="1")
    return prompt_id
