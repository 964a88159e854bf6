"""The one record of a live job, and changes of it."""

from __future__ import annotations

from dataclasses import fields

from engine.worlds import World
from jobs.samples import job

from proxy.catalog.owners import Needs
from proxy.engine.live_job import JobChanges, LiveJob
from proxy.jobs.models import Wish


def test_a_change_sets_the_fields_that_it_names_and_no_other() -> None:
    live_job = job(needs=Needs(frozenset({"one"}), "own.safetensors"))
    before = {of_job.name: getattr(live_job, of_job.name) for of_job in fields(live_job)}
    World().table.change(live_job, started_at=5, wish=Wish.INTERRUPT, needs=None)
    after = {of_job.name: getattr(live_job, of_job.name) for of_job in fields(live_job)}
    assert after == {**before, "started_at": 5, "wish": Wish.INTERRUPT, "needs": None}


def test_every_change_names_a_field_of_a_live_job() -> None:
    names = {of_job.name for of_job in fields(LiveJob)}
    assert set(JobChanges.__annotations__) <= names
