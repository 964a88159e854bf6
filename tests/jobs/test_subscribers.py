"""Who hears what, and how many jobs a client follows."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs
from waiting import until

from proxy import loop_turns
from proxy.budget import MemoryBudget
from proxy.bus import EventBus
from proxy.jobs import subscribers as module
from proxy.jobs.clients import Clients
from proxy.jobs.message_order import step_of
from proxy.jobs.messages import ClientMessage, JobMessage, NewsMissed, SocketKnown, topic_of
from proxy.jobs.models import Job, JobKey
from proxy.jobs.subscribers import FEW, Moment, Subscribers
from proxy.members.member import Member
from proxy.supervisor import Supervisor
from proxy.translate.events import Event, Message, NodeText, Preview, status


class Listener:
    def __init__(self, *, asks_for_previews: bool = False) -> None:
        self.received: list[tuple[Message, bool]] = []
        self.replaced = False
        self.asks_for_previews = asks_for_previews

    def send(self, message: Message, *, for_all: bool) -> None:
        self.received.append((message, for_all))

    def superseded(self) -> None:
        self.replaced = True


PREVIEW = Preview("p", "1", "1", None, "1", b"", "image/jpeg")
RESULT = Preview("p", "1", "1", None, "1", b"", "image/png", result=True)


def listen(
    subscribers: Subscribers, client_id: str, member: str = "local", *, at: int | None = None
) -> Listener:
    listener = Listener()
    opened = None if at is None else Moment(at, 0)
    subscribers.attach(member, client_id, listener, opened=opened)
    return listener


def test_a_jobs_messages_go_to_its_client_alone() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    mine, other = listen(subscribers, "a"), listen(subscribers, "b")
    subscribers.tell("local", "a", PREVIEW)
    assert mine.received == [(PREVIEW, False)]
    assert other.received == []


def test_of_a_job_that_was_not_watched_a_late_socket_hears_all_but_previews() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    late = listen(subscribers, "a")
    received = [Event("progress", {}), RESULT, NodeText("1", "x")]
    for message in (PREVIEW, *received):
        subscribers.tell("local", "a", message, watched=False)
    assert late.received == [(message, False) for message in received]


def test_a_late_socket_that_asks_for_previews_hears_them() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    late = Listener(asks_for_previews=True)
    subscribers.attach("local", "a", late)
    subscribers.tell("local", "a", PREVIEW, watched=False)
    assert late.received == [(PREVIEW, False)]


@pytest.mark.parametrize(
    "message",
    [
        Event("progress", {}),
        Event("progress_state", {}),
        Event("execution_interrupted", {}),
        Event("execution_error", {"exception_type": "ExecutionBlocked"}),
        PREVIEW,
        NodeText("1", "x"),
    ],
)
def test_of_a_job_without_client_everybody_hears_the_progress(message: Message) -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    listeners = [listen(subscribers, "a"), listen(subscribers, "b")]
    subscribers.tell("local", None, message)
    assert [listener.received for listener in listeners] == [[(message, True)]] * 2


@pytest.mark.parametrize(
    "type_",
    [
        "execution_start",
        "execution_cached",
        "executing",
        "executed",
        "execution_success",
        "execution_error",
    ],
)
def test_of_a_job_without_client_nobody_hears_the_rest(type_: str) -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    listener = listen(subscribers, "a")
    subscribers.tell("local", None, Event(type_, {}))
    assert listener.received == []


@pytest.mark.parametrize(
    "message",
    [Event("executed", {}), Event("execution_success", {}), Event("progress", {}), PREVIEW],
)
def test_of_a_job_without_client_a_socket_of_the_clouds_way_hears_all(message: Message) -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    listener, stranger = Listener(), Listener()
    subscribers.attach("local", "a", listener, hears_all=True)
    subscribers.attach("other", "a", stranger, hears_all=True)
    subscribers.tell("local", None, message)
    assert listener.received == [(message, False)]
    assert stranger.received == []


def test_of_jobs_of_other_clients_a_socket_of_the_clouds_way_hears_nothing() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    listener = Listener()
    subscribers.attach("local", "a", listener, hears_all=True)
    subscribers.tell("local", "b", Event("executed", {}))
    subscribers.tell("local", "b", PREVIEW)
    assert listener.received == []


def test_status_goes_to_all_sockets_of_the_member() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    listeners = [listen(subscribers, "a"), listen(subscribers, "b")]
    stranger = listen(subscribers, "a", member="other")
    subscribers.broadcast("local", status(1))
    assert [len(listener.received) for listener in listeners] == [1, 1]
    assert stranger.received == []


def crowd(count: int) -> tuple[Subscribers, list[Listener]]:
    subscribers = Subscribers(EventBus(), Supervisor())
    return subscribers, [listen(subscribers, str(number)) for number in range(count)]


def statuses(listener: Listener) -> list[Message]:
    return [message for message, for_all in listener.received if for_all]


async def test_a_few_hear_a_status_at_once() -> None:
    subscribers, listeners = crowd(FEW)
    subscribers.broadcast("local", status(1))
    assert all(statuses(listener) == [status(1)] for listener in listeners)


async def test_in_a_crowd_each_hears_the_newest_status_in_its_turn() -> None:
    subscribers, listeners = crowd(FEW + 200)
    for number in range(5):
        subscribers.broadcast("local", status(number))
    assert not any(listener.received for listener in listeners)
    await until(lambda: all(listener.received for listener in listeners))
    subscribers.broadcast("local", status(9))
    await until(lambda: all(len(listener.received) > 1 for listener in listeners))
    assert all(statuses(listener) == [status(4), status(9)] for listener in listeners)


async def test_in_a_crowd_a_status_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", 3600.0)  # nobody's turn comes
    subscribers, (first, *_) = crowd(FEW + 1)
    subscribers.broadcast("local", status(2))
    subscribers.broadcast("local", status(1))
    end = Event("executing", {"node": None, "prompt_id": "p"})
    for _ in range(2):
        subscribers.tell("local", "0", end)
    late = listen(subscribers, "late")  # is greeted with the present one
    subscribers.tell("local", "late", end)
    assert first.received == [(status(1), True), (end, False), (end, False)]
    assert late.received == [(end, False)]


async def test_in_a_crowd_other_messages_to_all_go_in_their_order() -> None:
    subscribers, listeners = crowd(FEW + 1)
    subscribers.broadcast("local", status(1))
    subscribers.broadcast("local", NodeText("1", "x"))
    assert not any(listener.received for listener in listeners)
    await until(lambda: all(len(listener.received) == 2 for listener in listeners))
    assert all(statuses(listener) == [status(1), NodeText("1", "x")] for listener in listeners)


async def test_in_a_crowd_each_hears_the_newest_of_what_says_the_same() -> None:
    subscribers, listeners = crowd(FEW + 1)
    steps = [Event("progress", {"value": value, "prompt_id": "p"}) for value in range(5)]
    other, node = Event("progress", {"prompt_id": "q"}), NodeText("1", "x")
    for message in (steps[0], node, steps[1], other, *steps[2:]):
        subscribers.tell("local", None, message)
    await until(lambda: all(listener.received for listener in listeners))
    assert all(statuses(listener) == [node, other, steps[4]] for listener in listeners)


async def test_messages_to_a_crowd_are_steps_of_their_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others go on meanwhile."""
    monkeypatch.setattr(loop_turns, "CALM", 0.0)
    subscribers, listeners = crowd(FEW + 1)
    subscribers.tell("local", None, NodeText("1", "x"))
    turns = 0
    while not all(listener.received for listener in listeners):
        await asyncio.sleep(0)
        turns += 1
    assert turns > FEW


async def test_a_crowd_without_memory_for_what_waits_hears_it_at_once() -> None:
    subscribers = Subscribers(EventBus(), Supervisor(), budget=MemoryBudget(2**20))
    listeners = [listen(subscribers, str(number)) for number in range(FEW + 1)]
    first, large = NodeText("1", "x"), NodeText("1", "x" * 2**20)
    for message in (first, large):
        subscribers.tell("local", None, message)
    assert all(statuses(listener) == [first, large] for listener in listeners)


async def test_who_has_left_hears_no_status() -> None:
    subscribers, listeners = crowd(FEW + 2)
    subscribers.broadcast("local", status(1))
    subscribers.detach("local", "0", listeners[0])
    await until(lambda: all(listener.received for listener in listeners[1:]))
    assert not listeners[0].received


async def test_a_fault_does_not_keep_others_from_hearing_the_next_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subscribers, listeners = crowd(FEW + 1)

    def fail(message: Message, *, for_all: bool) -> None:
        raise RuntimeError(f"a fault of ours: {message} {for_all}")

    monkeypatch.setattr(listeners[0], "send", fail)
    with capture_logs() as lines:
        subscribers.broadcast("local", status(1))
        await until(lambda: lines)
    assert [line["event"] for line in lines] == ["task_failed"]
    monkeypatch.undo()
    subscribers.broadcast("local", status(2))
    await until(lambda: all(listener.received for listener in listeners))


def test_a_newer_socket_with_the_same_id_takes_over() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    older, newer = listen(subscribers, "a"), listen(subscribers, "a")
    subscribers.tell("local", "a", PREVIEW)
    assert older.replaced
    assert older.received == []
    assert newer.received == [(PREVIEW, False)]


def test_the_older_sockets_end_does_not_touch_the_newer_one() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    older, newer = listen(subscribers, "a"), listen(subscribers, "a")
    subscribers.detach("local", "a", older)
    subscribers.tell("local", "a", PREVIEW)
    assert len(newer.received) == 1


@dataclass
class Replicas:
    """Two replicas on one bus, and the messages of an engine."""

    bus: EventBus
    here: Subscribers
    there: Subscribers
    numbers: Counter[tuple[int, int]] = field(default_factory=Counter)

    def tell(
        self,
        type_: str,
        *,
        client_id: str | None = "a",
        order: int = 1,
        epoch: int = 1,
        **data: Any,
    ) -> Event:
        """An engine sends a message; one of a later `epoch` tells the job from its beginning."""
        message = Event(type_, {"prompt_id": "p", **data})
        step = step_of(message)
        self.numbers[order, epoch] += step is not None
        number = self.numbers[order, epoch]
        place = (epoch, number, step)
        sent = JobMessage(JobKey("local", "p"), order, client_id, True, message, *place)
        self.bus.publish(topic_of("local", client_id), sent)
        return message


@pytest.fixture
def replicas() -> Replicas:
    bus = EventBus()
    return Replicas(bus, Subscribers(bus, Supervisor()), Subscribers(bus, Supervisor()))


def test_a_replica_subscribes_to_what_its_sockets_hear() -> None:
    bus = EventBus()
    subscribers = Subscribers(bus, Supervisor())
    before = set(bus._topics)
    listeners = [listen(subscribers, "a"), listen(subscribers, "*")]
    assert set(bus._topics) - before == {
        topic_of("local", "a"),
        topic_of("local", "*"),
        topic_of("local", None),
    }
    for client_id, listener in zip(("a", "*"), listeners, strict=True):
        subscribers.detach("local", client_id, listener)
    assert set(bus._topics) == before


def test_a_message_reaches_its_client_at_whichever_replica(replicas: Replicas) -> None:
    mine, others = listen(replicas.here, "a"), listen(replicas.there, "b")
    message = replicas.tell("execution_start")
    assert (mine.received, others.received) == ([(message, False)], [])


def test_of_a_job_without_client_the_sockets_of_all_replicas_hear(replicas: Replicas) -> None:
    listeners = [listen(replicas.here, "a"), listen(replicas.there, "b")]
    message = replicas.tell("progress", client_id=None)
    assert [listener.received for listener in listeners] == [[(message, True)]] * 2


def test_a_newer_socket_at_another_replica_takes_over(replicas: Replicas) -> None:
    older = listen(replicas.here, "a", at=1)
    newer = listen(replicas.there, "a", at=2)
    message = replicas.tell("execution_start")
    assert older.replaced
    assert not newer.replaced
    assert (older.received, newer.received) == ([], [(message, False)])
    replicas.here.detach("local", "a", older)
    assert replicas.there.listens("local", "a")


def test_a_socket_that_opened_without_the_bus_takes_over_when_it_is_back(
    replicas: Replicas,
) -> None:
    older = listen(replicas.here, "a")
    opened_at = replicas.here._sockets["local"]["a"].opened_at
    replicas.bus.publish(
        "sockets", SocketKnown("local", "a", "unheard", opened_at - 1, several=False)
    )
    assert not older.replaced
    replicas.bus.publish(
        "sockets", SocketKnown("local", "a", "unheard", opened_at + 1, several=False)
    )
    assert older.replaced


@pytest.mark.parametrize("opens", [False, True])
def test_of_two_sockets_the_clock_of_the_database_says_which_is_newer(
    replicas: Replicas, opens: bool
) -> None:
    newer = listen(replicas.here, "a", at=5000)
    replicas.bus.publish("sockets", SocketKnown("local", "a", "other", 4999, opens=opens))
    assert not newer.replaced
    replicas.bus.publish("sockets", SocketKnown("local", "a", "other", 5001, opens=opens))
    assert newer.replaced


def test_of_two_sockets_that_open_in_the_same_millisecond_one_stays(replicas: Replicas) -> None:
    both = [listen(subscribers, "a", at=5) for subscribers in (replicas.here, replicas.there)]
    replicas.bus.publish("sockets", NewsMissed())
    assert sorted(socket.replaced for socket in both) == [False, True]


def test_the_engine_tells_the_new_socket_alone_which_node_runs(replicas: Replicas) -> None:
    def answer(news: object) -> None:
        if isinstance(news, SocketKnown) and news.opens:
            topic = topic_of("local", news.client_id)
            replicas.bus.publish(topic, ClientMessage("local", "a", running, news.socket))

    running = Event("executing", {"node": "1"})

    replicas.bus.subscribe("sockets", answer)
    listener = Listener()
    greeting = status(0, "a")
    replicas.there.attach("local", "a", listener, lambda: listener.send(greeting, for_all=False))
    assert listener.received == [(greeting, False), (running, False)]


def test_what_another_engine_tells_once_more_is_left_out(replicas: Replicas) -> None:
    listener = listen(replicas.here, "a")
    once = [
        ("execution_start", {}),
        ("execution_cached", {"nodes": []}),
        ("executed", {"node": "1"}),
        ("execution_error", {"node_id": "2", "exception_type": "ExecutionBlocked"}),
    ]
    sent = [replicas.tell(type_, **data) for type_, data in once]
    for type_, data in [*once, ("executing", {"node": "1"})]:
        replicas.tell(type_, epoch=2, **data)
    sent += [
        replicas.tell("executing", epoch=2, node="3"),
        replicas.tell("execution_success", epoch=2),
        replicas.tell("executing", epoch=2, node=None),
    ]
    for type_, data in [*once, ("progress", {}), ("execution_success", {})]:
        replicas.tell(type_, epoch=3, **data)
    replicas.tell("executing", epoch=3, node=None)
    assert [message for message, _ in listener.received] == sent


def test_after_a_lost_step_nothing_is_sent_before_it_comes(replicas: Replicas) -> None:
    listener = listen(replicas.here, "a")
    replicas.numbers[1, 1] = 1  # the start is lost
    replicas.tell("execution_cached", nodes=[])
    assert (listener.received, replicas.here.deliveries.missed.is_set()) == ([], True)
    assert replicas.here.deliveries.lack
    replicas.here.deliveries.missed.clear()
    replicas.tell("progress")
    assert not replicas.here.deliveries.missed.is_set()  # it is known
    replicas.numbers[1, 1] = 0
    sent = [replicas.tell("execution_start"), replicas.tell("execution_cached", nodes=[])]
    assert [message for message, _ in listener.received] == sent
    assert not replicas.here.deliveries.lack


LIFE = [
    Event("execution_start", {"prompt_id": "p"}),
    Event("executed", {"prompt_id": "p", "node": "9"}),
    Event("execution_success", {"prompt_id": "p"}),
    Event("executing", {"prompt_id": "p", "node": None}),
]


@pytest.mark.parametrize(("ended", "sent"), [(None, LIFE), (6, LIFE), (7, []), (8, [])], ids=str)
def test_an_end_is_sent_to_sockets_that_have_opened_before_it(
    ended: int | None, sent: list[Event]
) -> None:
    subscribers, listener = Subscribers(EventBus(), Supervisor()), Listener()
    subscribers.attach("local", "a", listener, opened=Moment(0, ended))
    key = JobKey("local", "p")
    assert subscribers.end(1, key, "a", 7, LIFE) is bool(sent)
    assert not subscribers.end(1, key, "a", 7, [])
    assert [message for message, _ in listener.received] == sent
    assert subscribers.deliveries.is_over(1)


def test_of_a_job_without_client_the_sockets_hear_an_end_that_have_opened_before_it() -> None:
    subscribers = Subscribers(EventBus(), Supervisor())
    listeners = [Listener(), Listener()]
    for number, listener in enumerate(listeners):
        opened = Moment(0, 6 + number)
        subscribers.attach("local", str(number), listener, hears_all=True, opened=opened)
    subscribers.end(1, JobKey("local", "p"), None, 7, LIFE)
    assert [len(listener.received) for listener in listeners] == [len(LIFE), 0]


def test_an_end_that_was_begun_is_sent_whole(replicas: Replicas) -> None:
    listener = listen(replicas.here, "a", at=0)
    replicas.here._sockets["local"]["a"].ended = 7
    replicas.here.deliveries.expect(1, JobKey("local", "p"), "a", running=True)
    replicas.numbers[1, 1] = 5
    sent = [replicas.tell("execution_success")]
    replicas.here.end(1, JobKey("local", "p"), "a", 7, LIFE)
    assert [message for message, _ in listener.received] == [*sent, LIFE[3]]


def test_what_a_client_was_sent_is_forgotten_with_its_socket(replicas: Replicas) -> None:
    listener, other = listen(replicas.here, "a"), listen(replicas.here, "b")
    replicas.tell("execution_start", order=1)
    replicas.tell("execution_start", order=2, client_id=None)
    replicas.tell("execution_start", order=3, client_id="b")
    replicas.here.detach("local", "a", listener)
    assert list(replicas.here.deliveries.unfinished()) == [2, 3]
    replicas.here.detach("local", "b", other)
    assert replicas.here.deliveries.unfinished() == {}


def test_an_id_that_is_used_again_has_a_life_of_its_own(replicas: Replicas) -> None:
    listener = listen(replicas.here, "a")
    sent = [
        replicas.tell(type_, order=order, node=None)
        for order in (1, 2)
        for type_ in ("execution_start", "execution_success", "executing")
    ]
    assert [message for message, _ in listener.received] == sent


def test_a_replica_that_has_missed_something_learns_of_the_sockets_again(
    replicas: Replicas,
) -> None:
    listener = listen(replicas.here, "a")
    replicas.here.understands_several("local", "a")
    clients = Clients()
    replicas.bus.subscribe("sockets", clients.hear)
    assert not clients.listens("local", "a")
    replicas.bus.publish("sockets", NewsMissed())
    assert clients.listens("local", "a")
    assert not clients.one_at_a_time(Member("local"), "a")
    replicas.here.detach("local", "a", listener)
    assert not clients.listens("local", "a")


def job(prompt_id: str, member: str = "ann", client_id: str | None = "c", **fields: Any) -> Job:
    return Job(prompt_id, member, 0, None, client_id=client_id, created_at=0, **fields)
