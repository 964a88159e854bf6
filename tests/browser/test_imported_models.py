"""A LoRA that was imported into the account, in the menu of the web interface and in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import sketch
from browser.frontend import LOAD, SAMPLER, SAVE, TIMEOUT, WORKFLOW, Frontend
from stack import Proxy

from proxy.simulator import Simulator

if TYPE_CHECKING:
    from playwright.async_api import Browser

OWN = "my own style.safetensors"

#: Put a LoRA between the checkpoint and the sampler; its id, and where its menu is.
_ADD = """
(sampler) => {
  const lora = LiteGraph.createNode("LoraLoaderModelOnly");
  lora.pos = [430, 700];
  app.graph.add(lora);
  app.graph.getNodeById(1).connect(0, lora, 0);
  lora.connect(0, app.graph.getNodeById(sampler), 0);
  return lora.id;
}
"""

_OFFERED = """
(id) => {
  const widget = app.graph.getNodeById(id).widgets.find((one) => one.name === "lora_name");
  const values = widget.options.values;
  return typeof values === "function" ? values() : values;
}
"""


@pytest.fixture(autouse=True)
def own(simulator: Simulator) -> None:
    """The import is there before the proxy is."""
    simulator.account.import_model("loras", OWN)


async def test_an_import_is_in_the_menu_and_runs(
    chrome: Browser, simulator: Simulator, proxy: Proxy, tmp_path: Path
) -> None:
    file = json.loads(WORKFLOW.read_text())
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        await frontend.evaluate("async (file) => { await app.loadGraphData(file); }", file)
        await frontend.until_nodes(len(file["nodes"]))
        await frontend.upload(sketch.upload())
        await frontend.until_picture(LOAD, "sketch")
        lora = await frontend.evaluate(_ADD, SAMPLER)
        await frontend.fit()
        assert OWN in await frontend.evaluate(_OFFERED, lora)
        await frontend.click_node(lora, down=45)
        entry = frontend.page.get_by_text(OWN, exact=True).first
        await entry.wait_for(timeout=TIMEOUT)
        await entry.click()
        await frontend.run()
        await frontend.until_picture(SAVE, "lighthouse")
    (job,) = simulator.jobs.values()
    assert OWN in [node["inputs"].get("lora_name") for node in job.graph.values()]
    assert job.status == "completed"
