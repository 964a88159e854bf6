"""What a replica tells its sockets from the storage, where the bus has lost it."""

from __future__ import annotations

from jobs.replica import CLIENT, Replica
from jobs.samples import MEMBER
from waiting import until

from proxy.bus import MISSED
from proxy.jobs.conversion import progress_of, stored_of
from proxy.jobs.models import JobChanged, JobProgress
from proxy.supervisor import Supervisor

WHOLE = [
    "execution_start",
    "execution_cached",
    "executing 9",
    "executed 9",
    "execution_success",
    "executing None",
]


async def test_a_job_that_lived_and_ended_unheard_is_told_whole_once(replica: Replica) -> None:
    listener = replica.listen()
    job = await replica.insert()
    await replica.end(job)
    await replica.feed.read()
    await replica.feed.read()
    for type_ in ("execution_success", "executing"):
        replica.tell(job, type_, node=None)
    assert listener.heard == WHOLE


async def test_of_a_job_that_had_begun_the_rest_is_told(replica: Replica) -> None:
    listener = replica.listen()
    job = await replica.insert()
    replica.bus.publish(f"jobs.{MEMBER}", JobChanged(stored_of(job), progress_of(job)))
    replica.tell(job, "execution_start")
    replica.tell(job, "execution_cached", nodes=[])
    replica.tell(job, "executing", node="9")
    await replica.feed.read()
    assert len(listener.heard) == 3
    await replica.end(job)
    await replica.feed.read()
    assert listener.heard == [*WHOLE[:3], *WHOLE[2:]]


async def test_ends_from_before_a_socket_opened_are_not_told(replica: Replica) -> None:
    job = await replica.insert()
    await replica.end(job)
    replica.live.put(stored_of(job), JobProgress())
    listener = replica.listen()
    replica.subscribers._sockets[MEMBER][CLIENT].opened_at += 10
    await replica.feed.read()
    assert listener.heard == []


async def test_a_job_that_left_without_a_trace_is_told_no_end(replica: Replica) -> None:
    listener = replica.listen()
    job = await replica.insert()
    replica.live.put(stored_of(job), JobProgress())
    await replica.repository.discard([job.order])
    await replica.feed.read()
    assert listener.heard == []
    assert list(replica.live) == []


async def test_a_loss_is_made_good_at_once(replica: Replica) -> None:
    listener, supervisor = replica.listen(), Supervisor()
    await replica.end(await replica.insert())
    supervisor.keep(replica.feed.run, "read what was missed")
    replica.feed._hear_of_terms(MISSED)
    await until(lambda: listener.heard == WHOLE)
    await supervisor.close()
