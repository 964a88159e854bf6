"""comfy-mcp, where it is installed with comfy-cli: agents that run workflows on the proxy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
from clients.workflows import saved
from yarl import URL

COMFY_MCP = shutil.which("comfy-mcp")
pytestmark = pytest.mark.skipif(
    COMFY_MCP is None or shutil.which("comfy") is None,
    reason="comfy-mcp is not installed, or the comfy-cli that it calls",
)


class Agent:
    """Calls the tools of a server over its standard input and output (MCP, 2025-06-18)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._id = 0
        about = {"name": "test", "version": "1"}
        self._ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=about)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _ask(self, method: str, **params: Any) -> Any:
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("id") == self._id:
                return answer["result"]
        raise EOFError("the server has ended")

    def tool(self, name: str, **arguments: Any) -> Any:
        """Return the JSON that a tool answers with."""
        result = self._ask("tools/call", name=name, arguments=arguments)
        assert not result.get("isError"), result
        return json.loads(result["content"][0]["text"])


@pytest.fixture
def agent(server: URL, tmp_path: Path) -> Iterator[Agent]:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "DO_NOT_TRACK": "1",
        "COMFY_LOCAL_URL": str(server),
    }
    with subprocess.Popen(
        [str(COMFY_MCP)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Agent(process)
        finally:
            process.kill()


def test_it_runs_a_workflow_and_fetches_its_picture(agent: Agent, tmp_path: Path) -> None:
    ran = agent.tool("run_workflow", workflow_path=str(saved(graphs.sampled(53), tmp_path)))
    assert ran["status"] == "completed"
    agent.tool("fetch_outputs", prompt_id=ran["prompt_id"], out_dir=str(tmp_path / "out"))
    (picture,) = (tmp_path / "out").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_finds_the_server_its_models_and_a_job(agent: Agent, tmp_path: Path) -> None:
    assert agent.tool("server_info")["server"]["running"]
    names = {row["name"] for row in agent.tool("search_models", query="v1-5")["rows"]}
    assert "v1-5-pruned-emaonly-fp16.safetensors" in names
    path = str(saved(graphs.plain(), tmp_path))
    prompt_id = agent.tool("run_workflow", workflow_path=path)["prompt_id"]
    assert agent.tool("job", prompt_id=prompt_id)["status"] == "completed"
