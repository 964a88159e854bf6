"""Background work is started again, or it ends the process; it never stops unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from proxy.cloud.errors import CloudError
from proxy.runtime import supervisor as module
from proxy.runtime.backoff import Backoff
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import StorageError


@pytest.fixture
async def supervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(module, "_RETRY_DELAY", Backoff(0.001, 0.01))
    made = Supervisor()
    yield made
    await made.close()


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), None], ids=["raises", "ends"])
async def test_what_ends_is_started_again_and_logged(
    supervisor: Supervisor, fault: Exception | None
) -> None:
    runs, again = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            if fault is not None:
                raise fault
            return
        again.set()
        await asyncio.Event().wait()

    with capture_logs() as lines:
        supervisor.keep(work, "some work")
        await again.wait()
    (line,) = lines
    assert (line["task"], line["log_level"]) == ("some work", "error")
    assert line["event"] == ("task_ended" if fault is None else "task_failed")
    assert not supervisor.failed.is_set()


async def test_what_cannot_be_kept_up_ends_the_process(supervisor: Supervisor) -> None:
    async def work() -> None:
        raise RuntimeError("always")

    with capture_logs() as lines:
        supervisor.keep(work, "some work")
        await supervisor.failed.wait()
    assert lines[-1]["event"] == "task_abandoned"
    assert lines[-1]["log_level"] == "critical"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        StorageError("it does not answer"),
        ExceptionGroup("two", [TimeoutError(), CloudError("down")]),
    ],
    ids=["a connection", "the storage", "a group"],
)
async def test_what_comes_from_outside_never_ends_the_process(
    supervisor: Supervisor, error: Exception
) -> None:
    runs, enough = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 5 * module._MAX_FAILURES:
            enough.set()
        raise error

    with capture_logs() as lines:
        supervisor.keep(work, "some work")
        await enough.wait()
    assert not supervisor.failed.is_set()
    assert {line["event"] for line in lines} == {"task_interrupted"}


async def test_a_fault_of_ours_among_errors_from_outside_counts(supervisor: Supervisor) -> None:
    async def work() -> None:
        raise ExceptionGroup("two", [ConnectionResetError(), RuntimeError("ours")])

    supervisor.keep(work, "some work")
    await supervisor.failed.wait()


async def test_a_short_task_that_fails_is_logged(supervisor: Supervisor) -> None:
    async def work() -> None:
        raise RuntimeError("once")

    with capture_logs() as lines:
        await asyncio.wait([supervisor.spawn(work(), "one job")])
        await asyncio.sleep(0)
    assert [(line["event"], line["task"]) for line in lines] == [("task_failed", "one job")]


async def test_closing_ends_what_runs(supervisor: Supervisor) -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = supervisor.keep(work, "some work")
    await asyncio.sleep(0)
    await supervisor.close()
    assert task.cancelled()
    assert ended.is_set()


async def test_finishing_lets_what_was_spawned_end(supervisor: Supervisor) -> None:
    opened, ended = asyncio.Event(), list[str]()

    async def work(name: str, *, more: bool) -> None:
        await opened.wait()
        ended.append(name)
        if more:
            supervisor.spawn(work("second", more=False), "second")

    supervisor.spawn(work("first", more=True), "first")
    finishing = asyncio.create_task(supervisor.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    opened.set()
    await finishing
    assert ended == ["first", "second"]
