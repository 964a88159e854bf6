"""`@stable-canvas/comfyui-client` from npm, run by Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

SCRIPT = Path(__file__).with_name("stable_canvas.mjs")


@pytest.fixture
def run(server: URL, node_folder: Path) -> Any:
    def run(scenario: str) -> Any:
        script = shutil.copy(SCRIPT, node_folder)
        command = ["node", script, scenario, f"{server.host}:{server.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_it_follows_a_run_with_progress_and_previews(run: Any) -> None:
    answer = run("websocket")
    assert answer["files"] == [[200, "image/png"]] * 2
    assert answer["steps"] == [1, 2, 3, 4]
    assert answer["previews"] > 0


def test_it_polls_for_the_end_of_a_run(run: Any) -> None:
    assert run("polling") == [[200, "image/png"]] * 2


def test_it_sees_a_node_fail(run: Any) -> None:
    assert "boom" in run("failing")


def test_it_interrupts_its_run(run: Any) -> None:
    assert run("interrupt") == "Execution has been interrupted"


def test_it_lists_what_there_is(run: Any) -> None:
    answer = run("lists")
    assert "v1-5-pruned-emaonly.safetensors" in answer["checkpoints"]
    assert "euler" in answer["samplers"]
    assert answer["queue"] == {"Running": [], "Pending": []}
    assert "checkpoints" in answer["folders"]
    assert answer["stats"] == ["system", "devices"]
