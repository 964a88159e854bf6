"""What admins and new sockets hear of the live jobs."""

from __future__ import annotations

from typing import Any

import pytest
from engine.worlds import World
from jobs.samples import job

from proxy.jobs.models import JobState, NodeRuns, SocketKnown, topic_of


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("member", "client_id", "node"),
    [("anna", "c", "1"), ("anna", "d", None), ("ben", "c", None)],
)
def test_a_new_socket_hears_which_node_of_its_client_runs(
    world: World, member: str, client_id: str, node: str | None
) -> None:
    world.follow(job("first", state=JobState.RUNNING), node="older")
    world.follow(job("second", state=JobState.RUNNING))
    world.follow(job("third", state=JobState.SUBMITTED), node=None)
    heard: list[Any] = []
    world.bus.subscribe(topic_of(member, client_id), heard.append)
    world.overview.tell_running(SocketKnown(member, client_id, "s", 0, opens=True))
    assert heard == ([] if node is None else [NodeRuns(member, client_id, "s", node)])


def test_admins_see_what_runs_first_and_then_what_waits_in_its_turn(world: World) -> None:
    world.add(job("b", "ben", order=2, accepted=True))
    world.add(job("a", order=1, accepted=True))
    world.add(job("sent", state=JobState.SUBMITTING, accepted=True))
    world.add(job("new", state=JobState.SUBMITTING, accepted=False))
    world.follow(job("runs", state=JobState.RUNNING, accepted=True, started_at=5))
    seen = world.overview.jobs(None).jobs
    assert [view.prompt_id for view in seen] == ["runs", "sent", "a", "b"]
    assert (seen[0].node, seen[0].node_type, seen[0].progress) == ("1", "KSampler", 0.5)
    assert [(view.before, view.reason) for view in seen[2:]] == [(0, "slot"), (1, "turn")]
    assert [view.prompt_id for view in world.overview.jobs("ben").jobs] == ["b"]
