"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from process import before, child, serving

from proxy.simulator import Simulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?s)```{language}\n(.*?)```", README)


async def test_the_client_follows_a_job_to_its_end_or_prints_why_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = blocks("python")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "client.py"
    async with (
        Simulator() as simulator,
        serving(tmp_path / "data", environment=before(simulator)) as proxy,
    ):
        program.write_text(source.replace("127.0.0.1:8188", proxy.url.authority))
        async with child(str(program)) as client:
            out, err = await client.communicate()
        (tmp_path / "examples" / "text-to-image.json").write_text('{"1": {"class_type": "Gone"}}')
        async with child(str(program)) as refused:
            _, refusal = await refused.communicate()
    assert refusal.startswith(b'{"error": {"type": "missing_node_type"')
    assert client.returncode == 0, err.decode()
    lines = out.decode().splitlines()
    assert "progress 20" in lines
    assert lines[-1].strip() == "execution_success"
    assert (tmp_path / "lighthouse_00001_.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("language", ["zh", "ja", "ko"])
def test_a_translation_shows_the_same_commands_pictures_and_links(language: str) -> None:
    text = (ROOT / f"README.{language}.md").read_text(encoding="utf-8")
    for pattern in (r"(?s)```.*?```", r"`comfy-cloud-proxy [^`]+`", r"(?m)^#+(?= )"):
        assert re.findall(pattern, text) == re.findall(pattern, README)
    for pattern in (r"\]\(((?!README)[^)]+)\)", r"<(https://[^>]+)>"):
        assert sorted(re.findall(pattern, text)) == sorted(re.findall(pattern, README))


def test_the_demo_runs_the_workflow_of_the_documents() -> None:
    packaged = ROOT / "proxy" / "cli" / "text-to-image.json"
    assert packaged.read_bytes() == (ROOT / "examples" / "text-to-image.json").read_bytes()
