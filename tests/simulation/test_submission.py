"""How long a job waits that was answered with nonsense, by a simulated clock."""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from simulation.world import World

from proxy.cloud.answers import Submission
from proxy.cloud.errors import CloudAmbiguous
from proxy.cloud.upstream import Prompt
from proxy.engine.finder import JobFinder
from proxy.engine.outcomes import Lost, Outcome, Sent
from proxy.engine.policy import Policy
from proxy.engine.submitter import Submitter


class Cloud:
    """An account that answers the first submissions with nonsense and does not have the job."""

    title = "Comfy Cloud"

    def __init__(self, nonsense: float = 1, *, may_repeat: bool = False) -> None:
        self.may_repeat = may_repeat
        self._nonsense = nonsense
        self.submitted: list[float] = []

    async def submit(self, _: Prompt) -> Submission:
        self.submitted.append(asyncio.get_running_loop().time())
        if len(self.submitted) <= self._nonsense:
            raise CloudAmbiguous("POST /api/prompt: the answer is not JSON")
        return Submission("cloud-1", {})

    async def find(self, _mark: str, _known: object, *, since: int) -> None:
        await asyncio.sleep(0.2)


class Preparation:
    def lent(self, _: object) -> dict[str, str]:
        return {}

    def check(self) -> None: ...

    async def prepare(self, _: object) -> Prompt:
        return Prompt({}, {})


class Table:
    def __init__(self) -> None:
        self.reasons: list[str | None] = []

    def show(self, _: object, *, reason: str | None) -> None:
        self.reasons.append(reason)


def outcome_of(cloud: Cloud, table: Table, *, accepted: bool) -> Outcome:
    """Return what comes of sending a job."""
    world = World(1, rates={}, slots=1, seconds=1.0, in_order=False)
    parts: Any = cloud, table, Preparation(), SimpleNamespace(packs=None)
    finder = JobFinder(parts[0], set(), (), parts[3], Policy().adoption_timeout)
    submitter = Submitter(parts[0], finder, *parts[1:], nullcontext)
    loaded = SimpleNamespace(rewriting=None)
    job: Any = SimpleNamespace(accepted=accepted, mark="m", created_at=0, loaded=loaded)
    with world.installed():
        return world.loop.run_until_complete(submitter.send(job, max_wait=2.0))


@pytest.mark.parametrize("accepted", [True, False])
def test_a_job_that_is_repeated_at_once_goes_to_no_other_account(accepted: bool) -> None:
    """Its account was looked at once: one of its submissions may be on its way."""
    cloud = Cloud(math.inf, may_repeat=True)
    assert isinstance(outcome_of(cloud, Table(), accepted=accepted), Lost)
    assert len(cloud.submitted) > 1


@pytest.mark.parametrize("accepted", [True, False])
def test_a_job_that_was_answered_with_nonsense_goes_again_within_17_s(accepted: bool) -> None:
    cloud, table = Cloud(), Table()
    assert outcome_of(cloud, table, accepted=accepted) == Sent("cloud-1", {})
    first, second = cloud.submitted
    assert 15.0 <= second - first <= 17.0
    assert table.reasons == ["unanswered", None]
