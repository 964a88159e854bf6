"""What the probe observes of API v2: of a deployment, and of a cloud without one."""

from __future__ import annotations

import asyncio

import aiohttp

from proxy.probe.points import V2_POINTS, Findings
from proxy.probe.v2 import NONE, no_surface, observe
from proxy.probe.wire import Wire
from proxy.simulator.deployment import DeploymentSwitches, SimulatedDeployment


async def observed(deployment: SimulatedDeployment) -> dict[str, str | None]:
    findings = Findings("run")
    async with aiohttp.ClientSession() as session:
        wire = Wire(session, deployment.base_url, deployment.key)
        async with asyncio.timeout(60):
            await observe(wire, findings, "deployment")
    return {name: findings.value(f"deployment_{name}") for name in V2_POINTS}


async def test_a_deployment_is_observed_and_keeps_no_job() -> None:
    async with SimulatedDeployment(switches=DeploymentSwitches(pace=0.01)) as deployment:
        found = await observed(deployment)
        assert all(job.ended for job in deployment.jobs.values())
    assert found["accepts"] == "accepted"
    assert found["stream"] == "output, progress, status"
    assert found["output_types"] == "2 image, 2 image, 3 image, 3 image, 4 text"
    assert found["times"] == "started_at, completed_at, metrics"
    assert found["retention"] == "24 h"
    assert found["end"] == "succeeded"
    assert (found["invalid"], found["half_valid"]) == ("201", "201")
    assert found["failure"] == "code, message, node_id"
    assert found["unknown_class"] == "201"
    assert found["extra_pnginfo"] == "400 invalid_request"
    assert found["labels"] == "201"
    assert found["list"] == "200"
    assert found["upload_folder"] == "422 validation_error"
    assert found["upload_11_mb"] == "201"
    assert None not in found.values()


async def test_a_deployment_that_is_stopped_tells_why() -> None:
    async with SimulatedDeployment(switches=DeploymentSwitches(state="stopped")) as deployment:
        found = await observed(deployment)
    assert found["accepts"] == "422 deployment_stopped"


async def test_a_refusal_with_a_pause_says_so() -> None:
    async with SimulatedDeployment(switches=DeploymentSwitches(state="starting")) as deployment:
        found = await observed(deployment)
    assert found["accepts"] == "429 deployment_not_ready with Retry-After"


def test_without_a_deployment_each_point_says_so() -> None:
    findings = Findings("run")
    no_surface(findings, "deployment")
    assert {findings.value(f"deployment_{name}") for name in V2_POINTS} == {NONE}
