"""What was sent for jobs that wait: on the disk, and shown within the memory's budget."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import graphs
import pytest
from jobs.samples import MEMBER, Room, new
from stack import Client, Proxy

from proxy.api.keys import JOBS
from proxy.jobs import views
from proxy.jobs.conversion import payload_of, stored_of
from proxy.jobs.models import Job, JobState
from proxy.jobs.payload_cache import PayloadCache, QueueItem
from proxy.sharing.budget import MemoryBudget, MemoryLimitError
from proxy.storage.payloads import Payload


async def stored(room: Room, prompt_id: str, title: int, **fields: Any) -> Job:
    """A job of which the cache has nothing."""
    graph = {"1": {"class_type": "X", "_meta": {"title": "x" * title}}}
    job = new(prompt_id, graph=graph, accepted=True, **fields)
    job.order = (await room.repository.insert(stored_of(job), payload_of(job.loaded))).order
    room.feed.live.put(job)
    room.feed.changed(job)
    return job


async def queue(room: Room) -> tuple[dict[str, Any], list[int]]:
    """The queue as it is shown, and the sizes of the pieces that it came in."""
    body = await room.service.queue_json(MEMBER)
    pieces = [body] if isinstance(body, bytes) else [piece async for piece in body]
    return json.loads(b"".join(pieces)), list(map(len, pieces))


async def test_a_large_queue_is_shown_in_pieces_and_is_the_same(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(room, "running", 300_000, state=JobState.RUNNING, started_at=1, account="a")
    for number, title in enumerate((10, 900_000, 20, 400_000, 300_000)):
        await stored(room, f"waiting {number}", title, number=number)
    monkeypatch.setattr(views, "_MAX_QUEUE_BODY", 0)
    whole, pieces = await queue(room)
    assert len(pieces) == 1
    monkeypatch.setattr(views, "_READ_BYTES", 500_000)
    again, pieces = await queue(room)
    assert again == whole
    assert [len(part) for part in whole.values()] == [1, 5]
    assert len(pieces) > 5
    assert max(pieces) < 1_000_000


async def test_an_empty_side_of_a_large_queue_is_an_empty_list(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_READ_BYTES", 500_000)
    await stored(room, "waiting", 600_000)
    shown, _ = await queue(room)
    assert len(shown["queue_running"]) == 1  # the head of the queue
    assert shown["queue_pending"] == []


async def test_a_queue_for_which_there_is_no_memory_is_refused_before_it_begins(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = room.service._live
    monkeypatch.setattr(live, "_budget", budget := MemoryBudget(1024 * 1024))
    monkeypatch.setattr(views, "_READ_BYTES", 100_000)
    await stored(room, "waiting", 300_000)
    with pytest.raises(MemoryLimitError):
        await room.service.queue_json(MEMBER)
    assert not any(budget.held().values())
    monkeypatch.setattr(live, "_budget", budget := MemoryBudget(2 * 1024 * 1024))
    await queue(room)
    assert not any(budget.held().values())


async def test_a_queue_that_is_kept_ready_takes_from_the_budget_until_it_changes(
    room: Room,
) -> None:
    await stored(room, "one", 300_000)
    body = await room.service.queue_json(MEMBER)
    assert await room.service.queue_json(MEMBER) is body
    budget = room.service._live._budget
    assert budget.held()["job"] == len(body)
    await stored(room, "two", 300_000)
    assert budget.held()["job"] == 0


async def test_what_was_sent_for_a_job_is_read_once_whatever_happens_to_the_job(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads, reads = room.repository.payloads, list[list[int]]()
    get_many = payloads.get_many

    async def counted(orders: Iterable[int]) -> dict[int, Payload]:
        reads.append(list(orders))
        return await get_many(reads[-1])

    monkeypatch.setattr(payloads, "get_many", counted)
    one = await stored(room, "one", 10)
    await queue(room)
    two = await stored(room, "two", 10)
    await queue(room)
    one.state = JobState.RUNNING
    room.put(one)
    shown, _ = await queue(room)
    assert [item[1] for item in shown["queue_running"]] == ["one"]
    assert reads == [[one.order], [two.order]]


async def test_a_new_job_is_shown_without_a_look_into_the_storage(
    client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = proxy.services[JOBS]._live.repository.payloads
    monkeypatch.setattr(payloads, "get_many", None)
    first, second = graphs.sampled(1, steps=1000), graphs.sampled(2, steps=1000)
    ids = [await client.submit(graph) for graph in (first, second)]
    _, shown = await client.get("queue")
    items = [*shown["queue_running"], *shown["queue_pending"]]
    assert {item[1]: item[2] for item in items} == dict(zip(ids, (first, second), strict=True))


async def test_what_was_sent_for_a_job_that_ends_while_it_is_read_is_not_kept(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads, live = room.repository.payloads, room.service._live
    get_many = payloads.get_many
    job = await stored(room, "one", 10)

    async def ended(orders: Iterable[int]) -> dict[int, Payload]:
        found = await get_many(orders)
        room.remove(job)
        return found

    monkeypatch.setattr(payloads, "get_many", ended)
    assert await live.sent(stored_of(job)) is not None
    assert live._budget.held()["job"] == 0


def test_the_cache_of_payloads_keeps_small_ones_until_their_memory_is_needed() -> None:
    budget = MemoryBudget(8_000_000)
    cache = PayloadCache(budget)
    cache.put("ann", 0, QueueItem(b"x" * 300_000, b""))
    assert cache.get(0) is None
    for order in range(1, 11):
        cache.put("ann", order, QueueItem(b"x" * 200_000, b""))
    assert [order for order in range(11) if cache.get(order) is not None] == [*range(1, 11)]
    for member, size in (("ben", 4_000_000), ("carl", 2_000_000), ("ann", 1_000_000)):
        budget.member(member, "body").grow(size)
    assert [order for order in range(11) if cache.get(order) is not None] == [7, 8, 9, 10]
    assert 800_000 < budget.held()["job"] < 1_000_000
    for order in range(11):
        cache.remove(order)
    assert budget.held()["job"] == 0


def test_what_does_not_fit_into_the_budget_is_not_kept() -> None:
    budget = MemoryBudget(8_000_000)
    budget.member("ann", "body").grow(4_000_000)
    cache = PayloadCache(budget)
    cache.put("ann", 1, QueueItem(b"x" * 1000, b""))
    assert cache.get(1) is None
