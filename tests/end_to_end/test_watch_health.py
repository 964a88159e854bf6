"""What the proxy says of itself, and what it says to clients while the cloud is silent."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import TIMEOUT, Client, running_proxy
from yarl import URL

from proxy.cloud.event_socket import Timeouts
from proxy.cloud.resilience import CircuitBreaker, RetryPolicy
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator, SocketFault
from proxy.storage.database import StorageError
from proxy.storage.sqlite import SqliteDatabase

QUICK = Timeouts(
    retries=RetryPolicy(budget=0.2, backoff=Backoff(first=0.01, longest=0.05)),
    breaker=lambda: CircuitBreaker(failures=2, silence=0.0, backoff=Backoff(0.4, 0.4)),
    socket_backoff=Backoff(first=0.01, longest=0.05),
    socket_timeout=0.1,
    ready_age=0.0,
)


@pytest.fixture
async def client(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Client]:
    async with running_proxy(
        simulator, tmp_path / "data", timeouts=QUICK, cache_mb=0, slots=3
    ) as proxy:
        await simulator.wait_for_sockets()
        yield Client(session, proxy.url)


async def silence(simulator: Simulator, client: Client) -> None:
    """Let the cloud fail until the proxy has noticed."""
    simulator.faults.add(HttpFault("*", status=503), times=None)
    await until_said(client, "is unavailable")


async def until_said(client: Client, words: str) -> tuple[int, dict[str, Any]]:
    """Ask until the reason why the proxy is not ready has these words; the answer."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            status, answer = await client.get("readyz")
            if words in answer.get("reason", ""):
                return status, answer
            await asyncio.sleep(0.02)


async def test_healthz_lives_without_the_cloud(simulator: Simulator, client: Client) -> None:
    await silence(simulator, client)
    calls = simulator.calls.total()
    assert await client.get("healthz") == (200, {"status": "ok"})
    assert simulator.calls.total() == calls


async def test_readyz_says_that_all_is_well(client: Client) -> None:
    checks = {"store": "ok", "key": "ok", "socket": "ok"}
    await client.until_ready()
    answer = {"status": "ready", "engine": "active", "checks": checks}
    assert await client.get("readyz") == (200, answer)


@pytest.mark.parametrize("path", ["api/healthz", "api/readyz"])
async def test_neither_has_a_twin_below_api(client: Client, path: str) -> None:
    assert (await client.get(path))[0] == 404


async def test_however_many_ask_whether_it_is_ready_the_cloud_is_asked_once(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path, timeouts=Timeouts(ready_age=60.0)) as proxy:
        client = Client(session, proxy.url)
        await asyncio.gather(*(client.get("readyz") for _ in range(50)))
        await client.until_ready()
    assert simulator.calls["GET /api/user"] == 1


async def test_readyz_tells_of_a_socket_that_is_not_open(
    simulator: Simulator, client: Client
) -> None:
    simulator.faults.add(SocketFault("refuse", status=503), times=None)
    simulator.drop_sockets()
    status, answer = await until_said(client, "refuses the event socket")
    assert (status, answer["checks"]["key"]) == (503, "ok")
    assert answer["reason"] == "Comfy Cloud refuses the event socket (status 503)."


async def test_readyz_tells_of_an_account_without_access(
    simulator: Simulator, client: Client
) -> None:
    simulator.switches.refuse_account = "FORBIDDEN"
    status, answer = await until_said(client, "needs a plan with API access")
    assert status == 503
    assert "needs a plan with API access" in answer["checks"]["key"]


@pytest.mark.sqlite
async def test_readyz_tells_of_a_disk_that_cannot_be_written(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(SqliteDatabase, "write", refuse)
    status, answer = await until_said(client, "The data folder is not writable (disk full)")
    assert status == 503
    assert answer["reason"].endswith("free disk space or repair the disk.")


async def test_while_the_cloud_is_silent_every_call_for_it_is_refused_quickly_with_a_time(
    simulator: Simulator, client: Client
) -> None:
    entry = await client.run(graphs.plain())
    running = await client.submit(graphs.waiting())
    waiting = await client.submit(graphs.plain(), client_id="another")  # sent ahead
    await silence(simulator, client)
    job = client.url / "api/jobs" / running
    picture = entry["outputs"]["2"]["images"][0]
    upload = {"image": io.BytesIO(graphs.png())}
    calls: list[tuple[str, URL, dict[str, Any]]] = [
        ("POST", job / "cancel", {}),
        ("POST", client.url / "interrupt", {}),
        ("POST", client.url / "queue", {"json": {"delete": [waiting]}}),
        ("POST", client.url / "upload/image", {"data": upload}),
        ("GET", (client.url / "view").with_query(picture), {}),
    ]
    for method, url, body in calls:
        async with asyncio.timeout(TIMEOUT), client.session.request(method, url, **body) as answer:
            parsed = await answer.json(content_type=None)
        assert answer.status == 503, (url, parsed)
        assert int(answer.headers["Retry-After"]) >= 1, url
        assert set(parsed["error"]) == {"type", "message", "details", "extra_info"}, url
        assert parsed["node_errors"] == {}, url


async def test_when_the_cloud_is_back_jobs_run_without_anybodys_help(
    simulator: Simulator, client: Client
) -> None:
    await silence(simulator, client)
    simulator.faults.clear()
    await client.until_ready()
    assert (await client.run(graphs.plain()))["status"]["completed"] is True
