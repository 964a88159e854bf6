"""Who hears what."""

from __future__ import annotations

import pytest

from proxy.jobs.subscribers import Subscribers
from proxy.translate.messages import Event, Message, NodeText, Preview, status


class Listener:
    def __init__(self, *, asks_for_previews: bool = False) -> None:
        self.heard: list[tuple[Message, bool]] = []
        self.replaced = False
        self.asks_for_previews = asks_for_previews

    def send(self, message: Message, *, for_all: bool) -> None:
        self.heard.append((message, for_all))

    def superseded(self) -> None:
        self.replaced = True


PREVIEW = Preview("p", "1", "1", None, "1", b"", "image/jpeg")
RESULT = Preview("p", "1", "1", None, "1", b"", "image/png", result=True)


def listen(subscribers: Subscribers, client_id: str, member: str = "local") -> Listener:
    listener = Listener()
    subscribers.attach(member, client_id, listener)
    return listener


def test_a_jobs_messages_go_to_its_client_alone() -> None:
    subscribers = Subscribers()
    mine, other = listen(subscribers, "a"), listen(subscribers, "b")
    subscribers.tell("local", "a", PREVIEW)
    assert mine.heard == [(PREVIEW, False)]
    assert other.heard == []


def test_of_a_job_that_was_not_watched_a_late_socket_hears_all_but_previews() -> None:
    subscribers = Subscribers()
    late = listen(subscribers, "a")
    heard = [Event("progress", {}), RESULT, NodeText("1", "x")]
    for message in (PREVIEW, *heard):
        subscribers.tell("local", "a", message, watched=False)
    assert late.heard == [(message, False) for message in heard]


def test_a_late_socket_that_asks_for_previews_hears_them() -> None:
    subscribers = Subscribers()
    late = Listener(asks_for_previews=True)
    subscribers.attach("local", "a", late)
    subscribers.tell("local", "a", PREVIEW, watched=False)
    assert late.heard == [(PREVIEW, False)]


@pytest.mark.parametrize(
    "message",
    [
        Event("progress", {}),
        Event("progress_state", {}),
        Event("execution_interrupted", {}),
        PREVIEW,
        NodeText("1", "x"),
    ],
)
def test_of_a_job_without_client_everybody_hears_the_progress(message: Message) -> None:
    subscribers = Subscribers()
    listeners = [listen(subscribers, "a"), listen(subscribers, "b")]
    subscribers.tell("local", None, message)
    assert [listener.heard for listener in listeners] == [[(message, True)]] * 2


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
    subscribers = Subscribers()
    listener = listen(subscribers, "a")
    subscribers.tell("local", None, Event(type_, {}))
    assert listener.heard == []


@pytest.mark.parametrize(
    "message",
    [Event("executed", {}), Event("execution_success", {}), Event("progress", {}), PREVIEW],
)
def test_of_a_job_without_client_a_socket_of_the_clouds_way_hears_all(message: Message) -> None:
    subscribers = Subscribers()
    listener, stranger = Listener(), Listener()
    subscribers.attach("local", "a", listener, hears_all=True)
    subscribers.attach("other", "a", stranger, hears_all=True)
    subscribers.tell("local", None, message)
    assert listener.heard == [(message, False)]
    assert stranger.heard == []


def test_of_jobs_of_other_clients_a_socket_of_the_clouds_way_hears_nothing() -> None:
    subscribers = Subscribers()
    listener = Listener()
    subscribers.attach("local", "a", listener, hears_all=True)
    subscribers.tell("local", "b", Event("executed", {}))
    subscribers.tell("local", "b", PREVIEW)
    assert listener.heard == []


def test_status_goes_to_all_sockets_of_the_member() -> None:
    subscribers = Subscribers()
    listeners = [listen(subscribers, "a"), listen(subscribers, "b")]
    stranger = listen(subscribers, "a", member="other")
    subscribers.broadcast("local", status(1))
    assert [len(listener.heard) for listener in listeners] == [1, 1]
    assert stranger.heard == []


def test_a_newer_socket_with_the_same_id_takes_over() -> None:
    subscribers = Subscribers()
    older, newer = listen(subscribers, "a"), listen(subscribers, "a")
    subscribers.tell("local", "a", PREVIEW)
    assert older.replaced
    assert older.heard == []
    assert newer.heard == [(PREVIEW, False)]


def test_the_older_sockets_end_does_not_touch_the_newer_one() -> None:
    subscribers = Subscribers()
    older, newer = listen(subscribers, "a"), listen(subscribers, "a")
    subscribers.detach("local", "a", older)
    subscribers.tell("local", "a", PREVIEW)
    assert len(newer.heard) == 1


def test_a_returning_client_learns_which_node_runs() -> None:
    subscribers = Subscribers()
    subscribers.tell("local", "a", Event("executing", {"node": "1.0.2", "display_node": "1"}))
    assert subscribers.attach("local", "a", Listener()) == "1"
    subscribers.tell("local", "a", Event("executing", {"node": None}))
    assert subscribers.attach("local", "a", Listener()) is None
