"""Who hears what, and how many jobs a client follows."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from waiting import until

from proxy.jobs import subscribers as module
from proxy.jobs.clients import Clients
from proxy.jobs.subscribers import FEW, Subscribers
from proxy.runtime.supervisor import Supervisor
from proxy.sharing import loop_turns
from proxy.sharing.budget import MemoryBudget
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


def listen(subscribers: Subscribers, client_id: str, member: str = "local") -> Listener:
    listener = Listener()
    subscribers.attach(member, client_id, listener)
    return listener


def test_a_jobs_messages_go_to_its_client_alone() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    mine, other = listen(subscribers, "a"), listen(subscribers, "b")
    subscribers.publish("local", "a", PREVIEW)
    assert mine.received == [(PREVIEW, False)]
    assert other.received == []


def test_of_a_job_that_was_not_watched_a_late_socket_hears_all_but_previews() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    late = listen(subscribers, "a")
    received = [Event("progress", {}), RESULT, NodeText("1", "x")]
    for message in (PREVIEW, *received):
        subscribers.publish("local", "a", message, watched=False)
    assert late.received == [(message, False) for message in received]


def test_a_late_socket_that_asks_for_previews_hears_them() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    late = Listener(asks_for_previews=True)
    subscribers.attach("local", "a", late)
    subscribers.publish("local", "a", PREVIEW, watched=False)
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
    subscribers = Subscribers(Clients(), Supervisor())
    listeners = [listen(subscribers, "a"), listen(subscribers, "b")]
    subscribers.publish("local", None, message)
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
    subscribers = Subscribers(Clients(), Supervisor())
    listener = listen(subscribers, "a")
    subscribers.publish("local", None, Event(type_, {}))
    assert listener.received == []


@pytest.mark.parametrize(
    "message",
    [Event("executed", {}), Event("execution_success", {}), Event("progress", {}), PREVIEW],
)
def test_of_a_job_without_client_a_socket_of_the_clouds_way_hears_all(message: Message) -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    listener, stranger = Listener(), Listener()
    subscribers.attach("local", "a", listener, receives_all=True)
    subscribers.attach("other", "a", stranger, receives_all=True)
    subscribers.publish("local", None, message)
    assert listener.received == [(message, False)]
    assert stranger.received == []


def test_of_jobs_of_other_clients_a_socket_of_the_clouds_way_hears_nothing() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    listener = Listener()
    subscribers.attach("local", "a", listener, receives_all=True)
    subscribers.publish("local", "b", Event("executed", {}))
    subscribers.publish("local", "b", PREVIEW)
    assert listener.received == []


def test_status_goes_to_all_sockets_of_the_member() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    listeners = [listen(subscribers, "a"), listen(subscribers, "b")]
    stranger = listen(subscribers, "a", member="other")
    subscribers.broadcast("local", status(1))
    assert [len(listener.received) for listener in listeners] == [1, 1]
    assert stranger.received == []


def crowd(count: int) -> tuple[Subscribers, list[Listener]]:
    subscribers = Subscribers(Clients(), Supervisor())
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
        subscribers.publish("local", "0", end)
    late = listen(subscribers, "late")  # is greeted with the present one
    subscribers.publish("local", "late", end)
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
        subscribers.publish("local", None, message)
    await until(lambda: all(listener.received for listener in listeners))
    assert all(statuses(listener) == [node, other, steps[4]] for listener in listeners)


async def test_messages_to_a_crowd_are_steps_of_their_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others go on meanwhile."""
    monkeypatch.setattr(loop_turns, "CALM", 0.0)
    subscribers, listeners = crowd(FEW + 1)
    subscribers.publish("local", None, NodeText("1", "x"))
    turns = 0
    while not all(listener.received for listener in listeners):
        await asyncio.sleep(0)
        turns += 1
    assert turns > FEW


async def test_a_crowd_without_memory_for_what_waits_hears_it_at_once() -> None:
    subscribers = Subscribers(Clients(), Supervisor(), budget=MemoryBudget(2**20))
    listeners = [listen(subscribers, str(number)) for number in range(FEW + 1)]
    first, large = NodeText("1", "x"), NodeText("1", "x" * 2**20)
    for message in (first, large):
        subscribers.publish("local", None, message)
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
    subscribers = Subscribers(Clients(), Supervisor())
    older, newer = listen(subscribers, "a"), listen(subscribers, "a")
    subscribers.publish("local", "a", PREVIEW)
    assert older.replaced
    assert older.received == []
    assert newer.received == [(PREVIEW, False)]


def test_an_older_socket_that_comes_from_another_leader_does_not_take_over() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    newer, older = listen(subscribers, "a"), Listener()
    assert not subscribers.attach("local", "a", older, age=60.0)
    subscribers.publish("local", "a", PREVIEW)
    assert (older.replaced, older.received) == (True, [])
    assert (newer.replaced, newer.received) == (False, [(PREVIEW, False)])


def test_the_older_sockets_end_does_not_touch_the_newer_one() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    older, newer = listen(subscribers, "a"), listen(subscribers, "a")
    subscribers.detach("local", "a", older)
    subscribers.publish("local", "a", PREVIEW)
    assert len(newer.received) == 1


async def test_a_socket_that_comes_back_after_a_start_hears_what_was_told_meanwhile() -> None:
    supervisor = Supervisor()
    subscribers = Subscribers(Clients(), supervisor)
    subscribers.start()
    told = [Event("executed", {"prompt_id": "p"}), Event("execution_success", {})]
    for message in (told[0], PREVIEW, told[1]):
        subscribers.publish("local", "a", message)
    assert listen(subscribers, "b").received == []
    first, second = listen(subscribers, "a"), listen(subscribers, "a")
    assert first.received == [(message, False) for message in told]
    assert second.received == []
    await supervisor.close()


async def test_a_socket_that_goes_and_comes_back_hears_as_at_a_local_server() -> None:
    supervisor = Supervisor()
    subscribers = Subscribers(Clients(), supervisor)
    subscribers.start()
    subscribers.detach("local", "a", listen(subscribers, "a"))
    subscribers.publish("local", "a", Event("executed", {}))
    subscribers.publish("local", "b", Event("executed", {}), watched=False)
    assert listen(subscribers, "a").received == listen(subscribers, "b").received == []
    await supervisor.close()


async def test_what_no_socket_comes_back_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETURN_TIMEOUT", 0.0)
    supervisor = Supervisor()
    subscribers = Subscribers(Clients(), supervisor)
    subscribers.start()
    subscribers.publish("local", "a", Event("executed", {}))
    await until(lambda: subscribers._missed is None)
    subscribers.publish("local", "a", Event("executed", {}))
    assert listen(subscribers, "a").received == []
    await supervisor.close()
