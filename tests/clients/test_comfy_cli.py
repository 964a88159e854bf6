"""`comfy run` of comfy-cli, where it is installed; it brings a whole ffmpeg, so no extra has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import graphs
import pytest
from clients.workflows import saved
from yarl import URL

COMFY = shutil.which("comfy")
pytestmark = pytest.mark.skipif(COMFY is None, reason="comfy-cli is not installed")


@pytest.fixture
def comfy(server: URL, tmp_path: Path) -> Any:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "DO_NOT_TRACK": "1",
        "COMFY_LOCAL_URL": str(server),
    }

    def comfy(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [str(COMFY), "--skip-prompt", "--json", *arguments],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            env=environment,
        )
        return dict(json.loads(done.stdout))

    return comfy


def test_it_runs_a_workflow_and_downloads_its_picture(comfy: Any, tmp_path: Path) -> None:
    ran = comfy("run", "--workflow", str(saved(graphs.sampled(51), tmp_path)), "--wait")
    assert ran["data"]["status"] == "completed"
    got = comfy("download", ran["data"]["prompt_id"], "--out-dir", str(tmp_path / "out"))
    [file] = got["data"]["files"]
    assert Path(file["path"]).read_bytes().startswith(b"\x89PNG")


def test_it_uploads_a_picture_and_runs_a_workflow_with_it(comfy: Any, tmp_path: Path) -> None:
    (tmp_path / "cli.png").write_bytes(graphs.png())
    name = comfy("upload", str(tmp_path / "cli.png"))["data"]["uploads"][0]["cloud_name"]
    ran = comfy("run", "--workflow", str(saved(graphs.inverted(name), tmp_path)), "--wait")
    assert set(ran["data"]["outputs_by_node"]) == {"3", "4"}


def test_it_names_the_node_that_fails(comfy: Any, tmp_path: Path) -> None:
    ran = comfy("run", "--workflow", str(saved(graphs.raising(), tmp_path)), "--wait")
    assert ran["error"]["message"] == "SimulatorRaise (node 3): boom"


def test_it_names_the_node_that_is_refused(comfy: Any, tmp_path: Path) -> None:
    path = saved(graphs.inverted("nowhere.png"), tmp_path)
    [error] = comfy("run", "--workflow", str(path), "--wait")["error"]["details"]["node_errors"]
    assert (error["node_id"], error["class_type"]) == ("1", "LoadImage")
