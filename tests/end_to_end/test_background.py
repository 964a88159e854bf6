"""Each background task of the process is killed by a fault: it is started again and it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import TIMEOUT, Client, running_proxy
from structlog.testing import capture_logs

from proxy.api.websocket import ClientSocket
from proxy.cloud.event_socket import EventSocket
from proxy.engine import engine
from proxy.engine.reconciler import Reconciler
from proxy.jobs.views import LiveJobs
from proxy.members.directory import Directory
from proxy.runtime import supervisor
from proxy.runtime.backoff import Backoff
from proxy.runtime.supervisor import Supervisor
from proxy.simulator import Simulator
from proxy.storage.write_behind import WriteBehind

#: What runs for as long as the process does: the class, a method of its work, the task's name.
TASKS = [
    (WriteBehind, "flush", "write the jobs"),
    (Reconciler, "_pause", "reconcile default"),
    (LiveJobs, "members", "status heartbeat"),
    (WriteBehind, "flush", "write the audit record"),
    (Directory, "_refresh", "watch the members"),
    (ClientSocket, "ping_if_silent", "ping silent sockets"),
]


@pytest.mark.parametrize(("owner", "method", "task"), TASKS, ids=[task for *_, task in TASKS])
async def test_a_task_that_a_fault_has_ended_is_started_again(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type[Any],
    method: str,
    task: str,
) -> None:
    monkeypatch.setattr(supervisor, "_RETRY_DELAY", Backoff(0.001, 0.01))
    monkeypatch.setattr(engine, "_LOOK_INTERVAL", 0.01)
    work = getattr(owner, method)
    calls, again = 0, asyncio.Event()

    def fail_once(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        current = asyncio.current_task()
        if current is None or current.get_name() != task:
            return work(*arguments, **named)
        calls += 1
        if calls == 1:
            raise RuntimeError("a fault of ours")
        again.set()
        return work(*arguments, **named)

    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        monkeypatch.setattr(owner, method, fail_once)
        with capture_logs() as lines:
            async with asyncio.timeout(TIMEOUT):
                await client.run(graphs.plain(1))
                await client.run(graphs.plain(2))
                async with client.listening():
                    await again.wait()
        logged = {
            (line["event"], line.get("task")) for line in lines if line["log_level"] == "error"
        }
        assert ("task_failed", task) in logged
        assert (await client.run(graphs.plain(3)))["status"]["completed"] is True


async def test_the_event_socket_bears_a_fault(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = EventSocket._connect_and_listen
    calls, again = 0, asyncio.Event()

    async def fail_once(socket: EventSocket) -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a fault of ours")
        again.set()
        return await work(socket)

    monkeypatch.setattr(EventSocket, "_connect_and_listen", fail_once)
    with capture_logs() as lines:
        async with running_proxy(simulator, tmp_path) as proxy, asyncio.timeout(TIMEOUT):
            await again.wait()
            await Client(session, proxy.url).run(graphs.plain())
    assert "event_socket_failed" in [line["event"] for line in lines]


async def test_whatever_task_a_fault_ends_at_its_start_is_started_again(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep, kept = Supervisor.keep, set()

    def keep_failing_once(
        self: Supervisor, work: Callable[[], Awaitable[None]], name: str
    ) -> asyncio.Task[None]:
        async def fail_once() -> None:
            if name not in kept:
                kept.add(name)
                raise RuntimeError("a fault of ours")
            await work()

        return keep(self, fail_once, name)

    monkeypatch.setattr(supervisor, "_RETRY_DELAY", Backoff(0.001, 0.01))
    monkeypatch.setattr(Supervisor, "keep", keep_failing_once)
    with capture_logs() as lines:
        async with running_proxy(simulator, tmp_path) as proxy, asyncio.timeout(TIMEOUT):
            client = Client(session, proxy.url)
            async with client.listening():
                assert (await client.run(graphs.plain()))["status"]["completed"] is True
    assert kept == {line["task"] for line in lines if line["event"] == "task_failed"}
    assert kept >= {task for *_, task in TASKS} | {
        "read observations",
        "write observations",
        "write usage",
        "watch the database",
    }
