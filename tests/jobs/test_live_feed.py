"""What an engine tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from backend import open_database
from jobs.samples import job

from proxy.jobs.clients import Clients
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.storage.jobs import JobRepository
from proxy.translate.events import Event, Message

ONE, TWO = job("one", order=1, accepted=True), job("two", order=2, accepted=True)
EXECUTING = Event("executing", {"node": "1", "prompt_id": "one"})


class Socket:
    """A client's socket: the types of what it heard, of a `status` how many jobs are left."""

    asks_for_previews = False

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: Message, *, for_all: bool) -> None:
        assert isinstance(message, Event)
        is_status = message.type == "status"
        info = message.data["status"]["exec_info"]["queue_remaining"] if is_status else message.type
        self.heard.append(info)

    def superseded(self) -> None:
        raise AssertionError


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[LiveFeed]:
    database = await open_database(tmp_path)
    repository = JobRepository(database)
    yield LiveFeed(
        LiveJobs(repository, MemoryBudget(2**28)),
        Subscribers(Clients(), Supervisor()),
        History(repository.history, None),
    )
    await database.close()


def listening(feed: LiveFeed, client_id: str = "c") -> Socket:
    socket = Socket()
    feed.subscribers.attach("anna", client_id, socket)
    return socket


async def test_a_client_hears_of_its_job_in_the_order_of_the_calls(feed: LiveFeed) -> None:
    socket, other = listening(feed), listening(feed, "other")
    feed.live.put(ONE)
    feed.changed(ONE, tell=True)
    feed.message(ONE, EXECUTING)
    feed.live.remove(ONE)
    feed.left(ONE)
    assert socket.heard == [1, "executing", 0]
    assert other.heard == [1, 0]


async def test_the_queue_is_that_of_the_last_call(feed: LiveFeed) -> None:
    live = feed.live.of("anna")
    feed.live.put(ONE)
    feed.live.put(TWO)
    feed.ahead("anna", 3, tell=False)
    assert live.remaining == 5
    feed.live.remove(ONE)
    assert list(live.jobs) == ["two"]


async def test_sockets_hear_how_many_jobs_are_left_when_the_client_has_its_answer(
    feed: LiveFeed,
) -> None:
    socket = listening(feed)
    with feed.answering("anna"):
        feed.live.put(ONE)
        feed.changed(ONE, tell=True)
        assert socket.heard == []
    assert socket.heard == [1]


@pytest.mark.parametrize(
    "tell",
    [
        lambda feed: feed.changed(ONE),
        lambda feed: feed.ahead("anna", 1, tell=False),
        lambda feed: feed.recorded(ONE),
        lambda feed: feed.left(ONE),
    ],
    ids=["changed", "ahead", "recorded", "left"],
)
async def test_watchers_hear_of_each_change_in_their_block(
    feed: LiveFeed, tell: Callable[[LiveFeed], None]
) -> None:
    changes: list[None] = []
    with feed.watched(lambda: changes.append(None)):
        tell(feed)
    tell(feed)
    assert changes == [None]


async def test_who_waits_for_the_entry_of_a_job_hears_that_it_is_recorded(feed: LiveFeed) -> None:
    with feed.history.changes("anna", "one") as changed:
        feed.recorded(ONE)
        assert changed.done()
