"""What is learned from the runs of graphs, and that another engine knows it too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import graphs
import pytest
from backend import open_database
from engine.rig import running_engine
from waiting import until

from proxy.engine import run_times as module
from proxy.engine.run_times import RunTimes
from proxy.simulator import Simulator
from proxy.storage.database import StorageError
from proxy.storage.run_times import JOB, RunTimeRepository, RunTimeRow, job_name
from proxy.translate.graph_shape import MAX_NODES, shape_of

GRAPH: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {}},
    "2": {"class_type": "Sample", "inputs": {"model": ["1", 0]}},
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture
async def repository(tmp_path: Path) -> AsyncIterator[RunTimeRepository]:
    database = await open_database(tmp_path)
    yield RunTimeRepository(database)
    await database.close()


async def test_another_engine_knows_what_one_has_learned(repository: RunTimeRepository) -> None:
    one, other = RunTimes(repository), RunTimes(repository)
    times = {"1": (0, 500), "2": (500, 9000), "3": (9500, 100), "gone": (0, 5)}
    one.learn(GRAPH, times, "anna", 9600)
    await one.unwritten.flush()
    await other.load()
    found = other.expected(GRAPH, ["3"])
    assert found == one.expected(GRAPH, ["3"])
    assert found.times == {"1": 500, "2": 9000, "3": 100}
    assert found.measured
    smaller = {"7": {"class_type": "Sample", "inputs": {}}}
    assert other.expected(smaller, []).times == {"7": 9000}
    assert not other.expected(smaller, []).measured


async def test_one_member_cannot_make_others_expect_more(repository: RunTimeRepository) -> None:
    times, shape = RunTimes(repository), shape_of(GRAPH)
    times.learn(GRAPH, {}, "eve", 16_000_000)
    assert times.typical("ann", shape) is None
    times.learn(GRAPH, {}, "bob", 1000)
    assert times.typical("ann", shape) == 1000
    times.learn(GRAPH, {}, "carol", 3000)
    assert times.typical("ann", shape) == 3000
    for _ in range(20):
        times.learn(GRAPH, {}, "eve", 16_000_000)
    assert times.typical("ann", shape) == 3000
    assert times.typical("bob", shape) == 1000


async def test_the_time_of_a_job_is_kept_by_member_and_for_others(
    repository: RunTimeRepository,
) -> None:
    one, other = RunTimes(repository), RunTimes(repository)
    shape = shape_of(GRAPH) or ""
    runs = ((one, "anna", 1000), (one, "ben", 2000), (one, "carl", 900), (other, "anna", 2000))
    for times, member, ms in runs:
        await times.load()
        times.learn(GRAPH, {}, member, ms)
        await times.unwritten.flush()
    found = {row.name: float(row.value) for row in await repository.load() if row.kind == JOB}
    assert found == {
        job_name(shape, "anna"): pytest.approx(1300),
        job_name(shape, "ben"): 2000,
        job_name(shape, "carl"): 900,
        job_name(shape): pytest.approx(1300),
    }
    one.learn({str(number): {} for number in range(MAX_NODES + 1)}, {}, "anna", 5)
    await one.unwritten.flush()
    assert len([row for row in await repository.load() if row.kind == JOB]) == 4


async def test_newer_runs_change_what_is_expected(repository: RunTimeRepository) -> None:
    learned = RunTimes(repository)
    for took in (1000, 2000):
        learned.learn(GRAPH, {"2": (0, took)}, "anna", took)
    assert learned.expected(GRAPH, ["2"]).times["2"] == pytest.approx(1300)


async def test_what_is_kept_is_bounded(
    repository: RunTimeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (("MAX_SHAPES", 3), ("MAX_CLASSES", 2), ("MAX_SLOWEST", 2), ("MAX_JOBS", 4))
    for name, value in limits:
        monkeypatch.setattr(module, name, value)
    learned = RunTimes(repository)
    for number in range(5):
        graph = {**GRAPH, "9": {"class_type": f"Class{number}", "inputs": {}}}
        times = {"1": (0, 10), "2": (0, 30), "9": (0, 20), "x" * 101: (0, 50)}
        learned.learn(graph, times, "anna", number)
        await learned.unwritten.flush()
    rows = await repository.load()
    assert sorted(row.kind for row in rows) == ["class"] * 2 + ["job"] * 4 + ["shape"] * 3
    assert {row.value for row in rows if row.kind == "shape"} == {b'{"2": 30.0, "9": 20.0}'}


async def test_a_write_that_fails_is_made_up_for(
    repository: RunTimeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = RunTimes(repository)
    learned.learn(GRAPH, {"1": (0, 500)}, "anna", 500)
    with monkeypatch.context() as broken:

        async def refuse(*_: object, **__: object) -> None:
            raise StorageError("disk full")

        broken.setattr(repository, "put", refuse)
        await learned.unwritten.close()
    await learned.unwritten.close()
    assert {row.name for row in await repository.load()} >= {"Load"}


async def test_what_is_forgotten_while_a_write_fails_is_deleted_by_the_next(
    repository: RunTimeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CLASSES", 1)
    learned = RunTimes(repository)
    learned.learn(GRAPH, {"1": (0, 500)}, "anna", 500)
    await learned.unwritten.flush()
    learned.learn(GRAPH, {"2": (0, 500)}, "anna", 500)
    with monkeypatch.context() as broken:

        async def refuse(*_: object, **__: object) -> None:
            raise StorageError("disk full")

        broken.setattr(repository, "put", refuse)
        with pytest.raises(StorageError):
            await learned.unwritten.flush()
    await learned.unwritten.flush()
    (row,) = [row for row in await repository.load() if row.kind == "class"]
    assert row.name == GRAPH["2"]["class_type"]


async def test_a_row_that_cannot_be_read_is_deleted_by_the_next_write(
    repository: RunTimeRepository,
) -> None:
    await repository.put([RunTimeRow("shape", "odd", b"[]", 1), RunTimeRow("class", "K", b"1", 1)])
    learned = RunTimes(repository)
    await learned.load()
    await learned.unwritten.flush()
    assert [row.name for row in await repository.load()] == ["K"]


async def test_the_engine_learns_from_a_job_and_its_successor_knows(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.switches.pace = 0.1
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(graphs.sampled(1, steps=20))
        await rig.ended(job)
    async with running_engine(simulator, tmp_path) as rig:
        found = rig.engine.resources.run_times.expected(graphs.sampled(2, steps=20), [])
        assert found.measured
        sampler = next(
            node for node, about in job.graph.items() if about["class_type"] == "KSampler"
        )
        assert found.times[sampler] == max(found.times.values())
        simulator.switches.pace = 0.5
        job, _ = await rig.submit(graphs.sampled(2, steps=10))
        overview = rig.engine._overview
        await until(lambda: any(view.share for view in overview.jobs(None).jobs))
        (view,) = overview.jobs(None).jobs
        assert view.remaining is not None
