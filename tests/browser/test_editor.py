"""Files of the editor become what the editor itself submits, in its own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from browser.frontend import WORKFLOW, Frontend
from stack import Client, Proxy

from proxy.api import web_interface
from proxy.translate import editor

if TYPE_CHECKING:
    from playwright.async_api import Browser

#: Gives the file that the editor would save and the graph that it would submit.
_BOTH = """
async () => {
  const file = JSON.parse(JSON.stringify(app.graph.serialize()));
  const { output } = await app.graphToPrompt();
  return [file, output];
}
"""

_OPEN = "async (file) => { await app.loadGraphData(file); }"

#: What people do to a workflow before they save it. The nodes are those of `WORKFLOW`.
_CHANGES = {
    "nothing": "",
    "a reroute": """
      const reroute = LiteGraph.createNode("Reroute");
      app.graph.add(reroute);
      node(1).connect(0, reroute, 0);
      reroute.connect(0, node(6), 0);
    """,
    "a primitive": """
      const primitive = LiteGraph.createNode("PrimitiveNode");
      app.graph.add(primitive);
      primitive.connect(0, node(6), node(6).inputs.findIndex((one) => one.name === "steps"));
      primitive.widgets[0].value = 31;
    """,
    "notes": """
      app.graph.add(LiteGraph.createNode("Note"));
      app.graph.add(LiteGraph.createNode("MarkdownNote"));
    """,
    "a muted node": "node(8).mode = 2; node(7).mode = 2;",
    "a bypassed node": """
      const scale = LiteGraph.createNode("ImageScale");
      app.graph.add(scale);
      node(7).connect(0, scale, 0);
      scale.connect(0, node(8), 0);
      scale.mode = 4;
    """,
    "a comment and a choice": """
      node(2).widgets[0].value = "a {lighthouse} // at dusk\\nby the \\\\{sea\\\\}";
    """,
    "a subgraph": "app.graph.convertToSubgraph(new Set([node(5), node(6), node(7)]));",
    "a muted subgraph": """
      app.graph.convertToSubgraph(new Set([node(6), node(7)])).node.mode = 2;
    """,
    "a bypassed subgraph": """
      app.graph.convertToSubgraph(new Set([node(6)])).node.mode = 4;
    """,
    "a subgraph in a subgraph": """
      const { subgraph } = app.graph.convertToSubgraph(new Set([node(5), node(6), node(7)]));
      subgraph.convertToSubgraph(new Set([subgraph.getNodeById(6)]));
    """,
}


def known(classes: dict[str, Any], graph: dict[str, Any]) -> bool:
    return editor.classes_of(graph) <= classes.keys()


def converted(file: dict[str, Any], classes: dict[str, Any]) -> dict[str, Any]:
    graph = editor.graph_of(file, classes, lambda choices: choices[0])
    return {name: (node["class_type"], node["inputs"]) for name, node in graph.items()}


def expected(output: dict[str, Any]) -> dict[str, Any]:
    # The button of an upload is an input of the editor's own, and no server looks at it.
    buttons = ("upload", "audioUI")
    return {
        name: (
            node["class_type"],
            {key: value for key, value in node["inputs"].items() if key not in buttons},
        )
        for name, node in output.items()
    }


async def test_what_the_editor_saves_is_what_it_submits(
    chrome: Browser, proxy: Proxy, client: Client, tmp_path: Path
) -> None:
    _, classes = await client.get("object_info")
    drawing = json.loads(WORKFLOW.read_text())
    templates = [
        (path.name, json.loads(path.read_text("utf-8")))
        for name, path in web_interface.installed().templates.items()
        if name.endswith(".json") and not name.startswith("index")
    ]
    usable = [
        (name, file) for name, file in templates if editor.is_editors(file) and known(classes, file)
    ]
    async with Frontend.opened(chrome, proxy.url, tmp_path / "failure.png") as frontend:
        for what, change in _CHANGES.items():
            await frontend.evaluate(_OPEN, drawing)
            await frontend.until_nodes(8)
            script = f"() => {{ const node = (id) => app.graph.getNodeById(id); {change} }}"
            await frontend.evaluate(script)
            file, output = await frontend.evaluate(_BOTH)
            assert converted(file, classes) == expected(output), what
        for name, opened in usable:
            await frontend.evaluate(_OPEN, opened)
            file, output = await frontend.evaluate(_BOTH)
            assert converted(file, classes) == expected(output), name
            assert converted(opened, classes) == expected(output), name
    assert len(usable) >= 10
