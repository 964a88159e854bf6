"""`@stable-canvas/comfyui-client` from npm, run by Node.js."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from yarl import URL

SCRIPT = Path(__file__).with_name("stable_canvas.mjs")


@pytest.fixture
def run(server: URL, node_folder: Path) -> Any:
    def run(scenario: str, *picture: Path) -> Any:
        script = shutil.copy(SCRIPT, node_folder)
        command = ["node", script, scenario, f"{server.host}:{server.port}", "", *map(str, picture)]
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


def picture_of(answer: list[list[str]]) -> Image.Image:
    """The result; the program counts the previews before it as pictures, too."""
    media_type, data = answer[-1]
    assert media_type == "image/png"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_its_own_nodes_carry_a_picture_bit_by_bit(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "noise.png"
    noise = Image.frombytes("RGB", (40, 24), random.Random(5).randbytes(40 * 24 * 3))
    noise.save(file)
    with picture_of(run("carried", file)) as carried:
        assert (carried.mode, carried.size, carried.tobytes()) == ("RGB", (40, 24), noise.tobytes())


def test_its_pipe_paints_over_a_picture_and_a_mask(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "white.png"
    Image.new("RGB", (64, 64), "white").save(file)
    with picture_of(run("pipe", file)) as painted:
        assert (painted.format, painted.size) == ("PNG", (64, 64))


def test_it_lists_what_there_is(run: Any) -> None:
    answer = run("lists")
    assert "v1-5-pruned-emaonly.safetensors" in answer["checkpoints"]
    assert "euler" in answer["samplers"]
    assert answer["queue"] == {"Running": [], "Pending": []}
    assert "checkpoints" in answer["folders"]
    assert answer["stats"] == ["system", "devices"]
