"""`comfy-cloud-probe`: its questions, its lines, its file and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from backend import environment_of
from process import before, serving
from process import command as run_command
from stack import Client

from proxy.simulator import Simulator, Switches
from proxy.simulator.deployment import DeploymentSwitches, SimulatedDeployment
from proxy.simulator.events import CloudEvent


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "COMFY" not in name}
    return subprocess.run(
        [sys.executable, "-m", "comfy_cloud_probe", "--idle", "0", *arguments],
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
    ("switches", "code"), [({"socket_cap": 1}, 1), ({"refuse_account": "FORBIDDEN"}, 2)]
)
async def test_the_exit_code_says_how_well_it_works(
    switches: dict[str, Any], code: int, tmp_path: Path
) -> None:

    async with Simulator(switches=Switches(**switches)) as simulator:
        done = await asyncio.to_thread(
            command,
            "--level",
            "read",
            "--base-url",
            str(simulator.base_url),
            COMFY_CLOUD_API_KEY=simulator.key,
        )
        assert simulator.key not in done.stdout + done.stderr
    assert done.returncode == code, done.stdout


async def test_the_proxy_uses_what_a_probe_has_seen_and_check_names_anomalies(
    tmp_path: Path,
) -> None:
    switches = Switches(honour_prompt_id=True, repeated_prompt_id="refused")
    async with Simulator(switches=switches) as simulator:
        place = {**environment_of(tmp_path), "COMFY_PROXY_DATA_DIR": str(tmp_path)}
        environment = {**before(simulator), **place}
        async with (
            serving(tmp_path, environment=before(simulator)) as server,
            aiohttp.ClientSession() as session,
        ):
            client = Client(session, server.url)
            done = await asyncio.to_thread(command, "--level", "run", "--yes", **environment)
            assert (done.returncode, done.stderr) == (0, "")
            _, body = await client.get("proxy/api/cloud-anomalies")
            facts = body["accounts"][0]["facts"]
            assert (facts["prompt_id"], facts["prompt_id_again"]) == ("honoured", "refused")
            assert facts["upload_hash"] == "blake3 of the bytes"
            simulator.tenants[0].event_sockets.broadcast(CloudEvent("odd", {}))
            await client.run(graphs.plain())
            await server.stop()
        code, output, _ = await run_command("check", environment=environment)
    assert code == 0
    assert "1 undocumented answers or events (event odd: type)" in output


async def test_a_probe_without_a_data_folder_makes_none(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with Simulator() as simulator:
        environment = {**before(simulator), "COMFY_PROXY_DATA_DIR": str(folder)}
        done = await asyncio.to_thread(command, "--level", "read", **environment)
    assert (done.returncode, folder.exists()) == (0, False)


async def test_a_deployment_alone_is_probed_by_running_jobs(tmp_path: Path) -> None:
    async with SimulatedDeployment(switches=DeploymentSwitches(state="stopped")) as deployment:
        nodes = tmp_path / "object_info.json"
        nodes.write_bytes(deployment.object_info)
        config = tmp_path / "config.toml"
        config.write_text(
            f"""
[[accounts]]
name = "studio"
base_url = "{deployment.base_url}"
key = "{deployment.key}"
object_info = "{nodes}"
""",
            encoding="utf-8",
        )
        words = ("--config", str(config), "--data-dir", str(tmp_path / "data"))
        done = await asyncio.to_thread(command, *words)
        assert done.returncode == 2
        assert "observe the deployment with --level run" in " ".join(done.stderr.split())
        done = await asyncio.to_thread(command, *words, "--level", "run", "--yes")
    assert done.returncode == 2
    assert "The deployment takes no jobs: 422 deployment_stopped." in done.stdout
