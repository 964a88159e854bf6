"""Workflows that clients of a member publish to each other."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from proxy.packs import workflows
from proxy.packs.workflows import MAX_ID_LENGTH, WorkflowExchange
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import Database
from proxy.storage.workflows import WorkflowRepository
from proxy.translate.errors import PlainError
from proxy.translate.events import Event


class Sent(NamedTuple):
    """An event that a client was sent."""

    member: str
    client_id: str
    event: Event


class Replica:
    """An exchange, and what its clients were sent."""

    def __init__(self, database: Database) -> None:
        self.sent: asyncio.Queue[Sent] = asyncio.Queue()
        self.supervisor = Supervisor(asyncio.Event())
        self.exchange = WorkflowExchange(
            WorkflowRepository(database),
            lambda *sent: self.sent.put_nowait(Sent(*sent)),
            self.supervisor,
        )

    async def next(self) -> Sent:
        async with asyncio.timeout(10):
            return await self.sent.get()


@pytest.fixture
def replica(database: Database) -> Replica:
    return Replica(database)


async def test_a_subscriber_gets_what_was_published_and_what_comes_then(replica: Replica) -> None:
    exchange = replica.exchange
    await exchange.publish("ann", "web", "upscale", {"1": {"seed": 2**70}})
    assert await exchange.subscribe("ann", "krita")
    before = await replica.next()
    assert (before.member, before.client_id) == ("ann", "krita")
    assert before.event == Event(
        "etn_workflow_published",
        {"publisher": {"name": "upscale", "id": "web"}, "workflow": {"1": {"seed": 2**70}}},
    )
    await exchange.publish("ann", "web", "again", {})
    assert (await replica.next()).event.data["publisher"]["name"] == "again"
    assert exchange.unsubscribe("ann", "krita")
    await exchange.publish("ann", "web", "last", {})
    assert await exchange.subscribe("ann", "other")
    assert (await replica.next()).client_id == "other"
    assert replica.sent.empty()


async def test_nobody_gets_workflows_of_another_member(replica: Replica) -> None:
    await replica.exchange.subscribe("ben", "krita")
    await replica.exchange.publish("ann", "web", "mine", {})
    await replica.exchange.publish("ben", "web", "theirs", {})
    assert (await replica.next()).event.data["publisher"]["name"] == "theirs"
    assert replica.sent.empty()


async def test_who_subscribes_twice_or_never_gets_false(replica: Replica) -> None:
    assert not replica.exchange.unsubscribe("ann", "krita")
    assert await replica.exchange.subscribe("ann", "krita")
    assert not await replica.exchange.subscribe("ann", "krita")


async def test_of_two_at_once_the_last_one_is_sent(replica: Replica) -> None:
    await replica.exchange.subscribe("ann", "krita")
    await asyncio.gather(
        *(replica.exchange.publish("ann", "web", str(number), {}) for number in range(5))
    )
    stored = await WorkflowRepository(replica.exchange._repository.database).get("ann", "web")
    assert stored is not None
    sent = [await replica.next()]
    while sent[-1].event.text != stored.message:
        sent.append(await replica.next())
    assert len({message.event.text for message in sent}) == len(sent)


async def test_a_workflow_that_is_too_large_is_refused(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "MAX_WORKFLOW_BYTES", 120)
    with pytest.raises(PlainError) as caught:
        await replica.exchange.publish("ann", "web", "a", "x" * 120)
    assert caught.value.kind == "too_large"


async def test_a_long_id_is_refused(replica: Replica) -> None:
    long = "x" * (MAX_ID_LENGTH + 1)
    with pytest.raises(PlainError):
        await replica.exchange.publish("ann", long, "a", {})
    with pytest.raises(PlainError):
        await replica.exchange.subscribe("ann", long)
