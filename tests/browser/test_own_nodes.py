"""A workflow with a node of a deployment, in the web interface of a proxy with both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from browser import sketch
from browser.frontend import LOAD, SAVE, WORKFLOW, Frontend
from deployments import Place

from proxy.api import web_interface
from proxy.simulator import Simulator
from proxy.simulator.deployment import DeploymentSwitches, SimulatedDeployment

if TYPE_CHECKING:
    from playwright.async_api import Browser

#: Put a node of the made-up pack Frames before the node that saves; its title.
_ADD = """
(save) => {
  const frame = LiteGraph.createNode("AddFrame");
  frame.pos = [1100, 700];
  app.graph.add(frame);
  const target = app.graph.getNodeById(save);
  const link = app.graph.links.get
    ? app.graph.links.get(target.inputs[0].link) : app.graph.links[target.inputs[0].link];
  app.graph.getNodeById(link.origin_id).connect(link.origin_slot, frame, 0);
  frame.connect(0, target, 0);
  return frame.title;
}
"""

_WORKFLOW = "() => app.graph.serialize()"
_MISSING = """
() => app.graph.nodes.filter((node) => !(node.type in LiteGraph.registered_node_types)).length
"""


async def test_an_own_node_loads_runs_and_shows_its_picture(
    chrome: Browser,
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    file = json.loads(WORKFLOW.read_text())
    async with SimulatedDeployment(switches=DeploymentSwitches(pace=0.02)) as deployment:
        place = Place(simulator, deployment, tmp_path, session)
        interface = web_interface.installed()
        async with (
            place.proxy(interface=interface) as (_, proxy),
            Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend,
        ):
            await frontend.evaluate("async (file) => { await app.loadGraphData(file); }", file)
            await frontend.until_nodes(len(file["nodes"]))
            await frontend.upload(sketch.upload())
            await frontend.until_picture(LOAD, "sketch")
            assert await frontend.evaluate(_ADD, SAVE) == "Add Frame"
            saved = await frontend.evaluate(_WORKFLOW)
            await frontend.evaluate("async (file) => { await app.loadGraphData(file); }", saved)
            await frontend.until_nodes(len(file["nodes"]) + 1)
            assert await frontend.evaluate(_MISSING) == 0
            await frontend.run()
            await frontend.until_picture(SAVE, "lighthouse")
        (job,) = deployment.jobs.values()
    assert job.status == "succeeded"
    assert "AddFrame" in {node["class_type"] for node in job.graph.values()}
    assert not simulator.jobs
