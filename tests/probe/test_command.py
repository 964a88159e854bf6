"""`comfy-cloud-proxy probe`: its questions, its lines, its file and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.simulator import Simulator, Switches


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "COMFY" not in name}
    return subprocess.run(
        [sys.executable, "-m", "proxy", "probe", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def test_the_report_is_printed_and_written(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = command("--simulate", "--level", "run", "--yes", "--json", str(file))
    report = json.loads(file.read_text(encoding="utf-8"))
    assert (done.returncode, report["verdict"]) == (0, "works")
    assert done.stdout.splitlines()[-1] == "The proxy works with this account."
    assert len(done.stdout.splitlines()) == len(report["points"]) + 1
    assert report["catalog"]["core"] > 50
    assert {"id", "observed", "assumed", "verdict", "note"} <= report["points"][0].keys()


def test_jobs_are_not_run_without_consent() -> None:
    done = command("--simulate", "--level", "run")
    assert done.returncode == 2
    assert "--yes" in done.stderr


@pytest.mark.parametrize(
    ("switches", "code"), [({"preview": "none"}, 1), ({"refuse_account": "FORBIDDEN"}, 2)]
)
async def test_the_exit_code_says_how_well_it_works(
    switches: dict[str, str], code: int, tmp_path: Path
) -> None:

    async with Simulator(switches=Switches(**switches)) as simulator:  # type: ignore[arg-type]
        done = await asyncio.to_thread(
            command,
            "--level",
            "run",
            "--yes",
            "--base-url",
            str(simulator.base_url),
            COMFY_CLOUD_API_KEY=simulator.key,
        )
        assert simulator.key not in done.stdout + done.stderr
    assert done.returncode == code, done.stdout
