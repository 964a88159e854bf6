"""What admins and new sockets hear of the live jobs."""

from __future__ import annotations

import pytest
from engine.worlds import World
from jobs.samples import job

from proxy.engine import overview
from proxy.jobs.engine_calls import JobSeen, RunAnswered
from proxy.jobs.models import JobState
from proxy.storage.job_tables import JobKey
from proxy.translate.events import Preview


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("member", "client_id", "node"),
    [("anna", "c", "1"), ("anna", "d", None), ("ben", "c", None)],
)
def test_the_node_that_runs_is_known_of_each_client(
    world: World, member: str, client_id: str, node: str | None
) -> None:
    world.follow(job("first", state=JobState.RUNNING), node="older")
    world.follow(job("second", state=JobState.RUNNING))
    world.follow(job("third", state=JobState.SUBMITTED), node=None)
    assert world.overview.running_node(member, client_id) == node


def test_admins_see_what_runs_first_and_then_what_waits_in_its_turn(world: World) -> None:
    world.add(job("b", "ben", order=2, accepted=True))
    world.add(job("a", order=1, accepted=True))
    world.add(job("sent", state=JobState.SUBMITTING, accepted=True))
    world.add(job("new", state=JobState.SUBMITTING, accepted=False))
    world.follow(job("runs", state=JobState.RUNNING, accepted=True, started_at=5))
    seen = world.overview.jobs(None).jobs
    assert [view.job.prompt_id for view in seen] == ["runs", "sent", "a", "b"]
    runs = seen[0].job
    assert seen[0] == JobSeen(runs, share=0.5, remaining=1234, node="1", node_type="KSampler")
    assert [(view.reason, view.before) for view in seen[2:]] == [("slot", 0), ("turn", 1)]
    assert [view.job.prompt_id for view in world.overview.jobs("ben").jobs] == ["b"]


def test_a_run_is_shown_with_its_nodes_and_the_last_preview_where_it_is_asked_for(
    world: World,
) -> None:
    run = world.follow(job("runs", state=JobState.RUNNING, started_at=5))
    key = run.job.key
    answer = world.overview.run(key, with_preview=False)
    node = {"state": "running", "value": 1, "max": 2, "began": 5, "ran": None}
    found = {"progress": 0.5, "remaining": 1234, "node": "1", "nodes": {"1": node}}
    assert answer == RunAnswered(found)
    run.job.preview = Preview("p", "1", "1", None, "1", b"JPEG", "image/jpeg")
    name = world.overview.run(key, with_preview=False).preview
    assert world.overview.run(key, with_preview=False) == RunAnswered(
        found, name, b"", "image/jpeg"
    )
    whole = world.overview.run(key, with_preview=True)
    assert whole == RunAnswered(found, name, b"JPEG", "image/jpeg")
    run.job.preview = Preview("p", "1", "1", None, "1", b"other", "image/jpeg")
    assert world.overview.run(key, with_preview=False).preview != name


def test_a_job_that_does_not_run_has_no_run(world: World) -> None:
    pending = world.follow(job("sent", state=JobState.SUBMITTED))
    assert world.overview.run(pending.job.key, with_preview=False) == RunAnswered(None)
    assert world.overview.run(JobKey("anna", "gone"), with_preview=False) == RunAnswered(None)


def test_of_many_jobs_that_wait_the_first_are_described_and_all_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MAX_WAITING", 2)
    for number in range(5):
        world.add(job(f"job {number}", "ben", order=number, accepted=True))
    seen = world.overview.jobs(None)
    assert [view.job.prompt_id for view in seen.jobs] == ["job 0", "job 1"]
    assert seen.waiting == {"ben": 5}
