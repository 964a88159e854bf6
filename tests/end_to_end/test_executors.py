"""What ran a job, as the cloud tells it of its entries."""

from __future__ import annotations

import graphs
import pytest
from stack import Client

from proxy.simulator import Simulator
from proxy.translate.snapshots import from_job

TOLD = {
    "executor": "platform_gateway",
    "deployment": {"deployment_id": "dep_1", "release_id": "rel_1", "name": "own"},
}


@pytest.mark.parametrize("messages", [True, False])
async def test_executor_and_deployment_pass_through(
    simulator: Simulator, client: Client, messages: bool
) -> None:
    simulator.switches.executors = messages
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        await listener.until_end(prompt_id)
    _, detail = await client.get(f"api/jobs/{prompt_id}")
    _, listed = await client.get("api/jobs")
    for entry in (detail, listed["jobs"][0]):
        assert {key: entry[key] for key in TOLD if key in entry} == (TOLD if messages else {})


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ({"executor": 7, "deployment": "x"}, {}),
        ({"executor": None, "deployment": None}, {}),
        ({"executor": "x" * 1000, "deployment": {"name": "y" * 1000}}, {}),
        ({"deployment": {str(number): "x" for number in range(100)}}, {}),
        (
            {"deployment": {"a": ["deep"], "release_version": 3}},
            {"deployment": {"release_version": 3}},
        ),
    ],
)
def test_other_forms_do_no_harm(fields: dict[str, object], passed: dict[str, object]) -> None:
    assert from_job({"id": "1", "status": "completed", **fields}).executed_by == passed
