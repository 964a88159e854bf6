"""What becomes of what happens to a job that is followed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import gated
import graphs
import pytest
from engine.rig import Catalog, running_engine
from stack import TIMEOUT
from waiting import until

from proxy.costs.job_cost import JobCost, JobRun, Pricing
from proxy.engine import following
from proxy.simulator import Simulator
from proxy.storage.database import StorageError, ValueRefusedError
from proxy.storage.history import Recorded
from proxy.storage.job_tables import HistoryEntry
from proxy.translate import codec
from proxy.translate.events import Event

SUBMIT = "POST /api/prompt"


async def test_the_entry_is_there_before_the_end_is_told(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        await rig.ended(job)
        told = [
            news.message.type if isinstance(news.message, Event) else news.what
            for news in rig.heard.news
            if news.what in ("message", "recorded", "left")
        ]
        assert told[-4:] == ["recorded", "execution_success", "left", "executing"]


async def test_an_end_is_written_until_the_storage_takes_it(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        finish, refusals = rig.repository.finish, [StorageError("disk full")] * 2

        async def refused(*args: Any, **kwargs: Any) -> Recorded:
            if refusals:
                raise refusals.pop()
            return await finish(*args, **kwargs)

        monkeypatch.setattr(rig.repository, "finish", refused)
        job, _ = await rig.submit(graphs.plain())
        assert (await rig.ended(job)).state == "succeeded"
        assert refusals == []


async def test_an_end_that_is_stored_while_the_engine_stops_is_told(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        finish, stored, stopping = rig.repository.finish, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Recorded:
            recorded = await finish(*args, **kwargs)
            stored.set()
            await stopping.wait()
            return recorded

        monkeypatch.setattr(rig.repository, "finish", slow)
        job, _ = await rig.submit(graphs.plain())
        await asyncio.wait_for(stored.wait(), TIMEOUT)
        stop = asyncio.create_task(rig.engine.stop())
        await asyncio.sleep(0)  # the tasks of the engine are cancelled
        stopping.set()
        await asyncio.wait_for(stop, TIMEOUT)
        assert rig.messages_of(job)[-2:] == ["execution_success", "executing None"]


async def test_an_end_that_the_database_does_not_take_is_a_failure(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        finish = rig.repository.finish

        async def refused(entry: HistoryEntry, *args: Any, **kwargs: Any) -> Recorded:
            if entry.state == "succeeded":
                raise ValueRefusedError("too large")
            return await finish(entry, *args, **kwargs)

        monkeypatch.setattr(rig.repository, "finish", refused)
        job, _ = await rig.submit(graphs.plain())
        entry = await rig.ended(job)
        assert entry.state == "failed"
        ((type_, error),) = codec.loads(entry.result)["status"]["messages"]
        assert (type_, "cannot store" in error["exception_message"]) == ("execution_error", True)
        assert rig.messages_of(job)[-2:] == ["execution_error", "executing None"]


async def test_a_job_of_which_the_database_takes_nothing_ends_without_a_trace(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(simulator, tmp_path) as rig:

        async def refused(*_args: Any, **_kwargs: Any) -> Recorded:
            raise ValueRefusedError("too large")

        monkeypatch.setattr(rig.repository, "finish", refused)
        job, _ = await rig.submit(graphs.plain())
        await until(lambda: "executing None" in rig.messages_of(job))
        assert rig.messages_of(job)[-2:] == ["execution_error", "executing None"]
        assert await rig.is_gone(job)
        assert rig.engine.table.get(job.key) is None


@pytest.mark.parametrize("limit", [1, 100])
async def test_the_cost_of_a_large_job_is_computed_in_a_thread(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    threads: list[Any] = []

    def cost_of(_: Pricing, run: JobRun) -> JobCost:
        threads.append(threading.current_thread())
        return JobCost()

    monkeypatch.setattr(Pricing, "cost_of", cost_of)
    monkeypatch.setattr(following, "MAX_NODES_INLINE", limit)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        assert (await rig.ended(job)).state == "succeeded"
    assert [thread is threading.main_thread() for thread in threads] == [limit == 100]


async def test_an_end_is_not_priced_before_the_list_of_nodes_is_loaded(
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: asyncio.Event,
) -> None:
    done: list[str] = []

    async def fetched(_catalog: Catalog, _timeout: float) -> bool:
        await asyncio.sleep(0)
        done.append("loaded")
        return True

    def cost_of(_: Pricing, _run: JobRun) -> JobCost:
        done.append("priced")
        return JobCost()

    monkeypatch.setattr(Pricing, "cost_of", cost_of)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(gated.GRAPH)
        monkeypatch.setattr(Catalog, "fetched", fetched)
        opened.set()
        await rig.ended(job)
    assert done == ["loaded", "priced"]


async def test_the_end_of_a_job_is_stored_with_its_running_time_in_the_fair_shares(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path, fair_by="time") as rig:
        job, _ = await rig.submit(graphs.plain())
        await rig.ended(job)
        stored = (await rig.repository.load_shares()).members[job.member]
        assert stored.typical is not None
        assert stored.start == pytest.approx(stored.typical)  # and not what was expected of it


async def test_a_slot_passes_on_as_soon_as_an_end_is_known(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    simulator.switches.late_detail = 2 * TIMEOUT  # the outputs of the first never come
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        await rig.submit(graphs.plain())
        opened.set()
        await until(lambda: simulator.calls[SUBMIT] == 2)


async def test_the_history_has_the_entry_before_the_client_hears_of_the_end(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.plain())
        await rig.ended(job)
        messages = rig.messages_of(job)
        assert messages[0] == "execution_start"
        assert messages[-2:] == ["execution_success", "executing None"]
        assert messages.count("execution_success") == 1


async def test_nothing_is_told_of_a_job_before_its_client_has_the_answer(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_ANSWER_TIMEOUT", 600.0)
    async with running_engine(simulator, tmp_path) as rig:
        job = await rig.store(rig.job(graphs.plain()))
        rig.engine.submit(job)
        await until(lambda: [done.status for done in simulator.jobs.values()] == ["completed"])
        live = rig.live(job)
        await until(lambda: live.follower is not None and live.follower.ending)
        assert rig.messages_of(job) == []
        rig.engine.release(job.key, watched=False)
        assert (await rig.ended(job)).state == "succeeded"
        assert (live.answered, live.watched) == (True, False)


async def test_a_job_is_told_after_a_while_also_if_nobody_says_that_its_client_has_the_answer(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_ANSWER_TIMEOUT", 0.05)
    async with running_engine(simulator, tmp_path) as rig:
        job = await rig.store(rig.job(graphs.plain()))
        rig.engine.submit(job)
        assert (await rig.ended(job)).state == "succeeded"


async def test_a_job_that_waits_is_known_to_be_answered(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        waiting, _ = await rig.submit(graphs.plain())
        assert (waiting.answered, waiting.watched) == (True, True)
        rig.engine.release(waiting.key, watched=False)
        assert waiting.watched, "only the first word counts"
        opened.set()
        await rig.ended(waiting)
