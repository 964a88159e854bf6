"""The example dashboard of Grafana over a real Prometheus that scrapes a real proxy."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from servers import free_port
from stack import TIMEOUT, Client, Proxy, running_proxy
from yarl import URL

from proxy.simulator import Simulator

PANELS = json.loads(
    (Path(__file__).parents[1] / "examples/monitoring/dashboard.json").read_text(encoding="utf-8")
)["panels"]

_CONFIG = """\
scrape_configs:
  - job_name: comfy-cloud-proxy
    scrape_interval: 250ms
    scrape_timeout: 250ms
    static_configs: [{{targets: ["{host}:{port}"]}}]
"""

Ask = Callable[[str], Awaitable[list[dict[str, Any]]]]


@asynccontextmanager
async def prometheus(
    target: URL, folder: Path, port: int, session: aiohttp.ClientSession
) -> AsyncIterator[Ask]:
    """A Prometheus that scrapes the target; what asks it for the result of an expression."""
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(host=target.host, port=target.port), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def ask(expression: str) -> list[dict[str, Any]]:
        url = URL(f"http://127.0.0.1:{port}/api/v1/query")
        async with session.get(url, params={"query": expression}) as answer:
            answer.raise_for_status()
            return list((await answer.json())["data"]["result"])

    try:
        yield ask
    finally:
        process.terminate()
        await process.wait()


async def until(ask: Ask, expression: str, least: float) -> None:
    """Wait until the value of an expression is at least this.

    It has none before Prometheus is ready, and after a scrape that took too long until the next.
    """
    found: object = None
    try:
        async with asyncio.timeout(TIMEOUT):
            while True:
                with suppress(aiohttp.ClientError):
                    found = samples = await ask(expression)
                    if samples and float(samples[0]["value"][1]) >= least:
                        return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{expression} is {found}")


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path / "data") as running:
        yield running


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
async def test_panels_have_data_while_nothing_happens_and_no_first_increment_is_lost(
    proxy: Proxy, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with prometheus(proxy.url, tmp_path, free_port(), session) as ask:
        scrapes = "count_over_time(comfy_cloud_proxy_memory_limit_bytes[1m])"
        await until(ask, scrapes, 3)
        for panel in PANELS:
            for target in panel["targets"]:
                if "noValue" not in panel["fieldConfig"]["defaults"]:
                    expression = target["expr"].replace('{job="comfy-cloud-proxy"}', "")
                    await until(ask, f"count({expression})", 1)
        await Client(session, proxy.url).run(graphs.plain(1))
        for counter in (
            'jobs_ended_total{outcome="completed"}',
            "jobs_accepted_total",
            "job_running_seconds_count",
            'cloud_calls_total{route="/api/prompt", status="200"}',
        ):
            await until(ask, f"sum(increase(comfy_cloud_proxy_{counter}[1m]))", 0.1)
