"""The trace of a request, in the log, at the cloud and in messages of webhooks."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import graphs
import pytest
from aiohttp import web
from broken_cloud import broken_cloud
from jobs.samples import job
from receiver import receiving
from stack import Client, running_proxy
from structlog.testing import capture_logs

from proxy.simulator import Simulator

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("header", "passed_on"), [(TRACE, TRACE), (f"{TRACE}-x", None)])
async def test_the_submission_to_the_cloud_has_the_trace_of_the_request(
    simulator: Simulator, tmp_path: Path, header: str, passed_on: str | None
) -> None:
    seen: list[str | None] = []

    def note(request: web.Request, _: bytes) -> None:
        seen.append(request.headers.get("traceparent"))

    async with (
        broken_cloud(simulator) as cloud,
        running_proxy(cloud, tmp_path / "data") as proxy,
        aiohttp.ClientSession(headers={"traceparent": header}) as session,
    ):
        cloud.answer("POST /api/prompt", note)
        await Client(session, proxy.url).run(graphs.plain())
    assert seen == [passed_on]


async def test_the_log_line_and_the_webhook_of_a_job_have_its_trace(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with (
        receiving() as receiver,
        running_proxy(simulator, tmp_path / "data", webhook_networks="127.0.0.1") as proxy,
        aiohttp.ClientSession(headers={"traceparent": TRACE}) as session,
    ):
        client = Client(session, proxy.url)
        await client.post("proxy/api/webhooks", {"url": str(receiver.url / "hook")})
        with capture_logs() as lines:
            await client.run(graphs.plain())
        (ended,) = await receiver.until(1)
    (accepted,) = (line for line in lines if line["event"] == "job_accepted")
    assert accepted["traceparent"] == ended.json["data"]["traceparent"] == TRACE


def test_all_log_lines_of_a_job_have_its_trace() -> None:
    fields = {"job": "one", "member": "anna"}
    assert job().log_fields == fields
    assert job(trace=TRACE).log_fields == {**fields, "traceparent": TRACE}
