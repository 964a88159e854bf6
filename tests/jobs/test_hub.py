"""Who hears what."""

from __future__ import annotations

import pytest

from proxy.jobs.hub import Hub
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


def listen(hub: Hub, client_id: str, member: str = "local") -> Listener:
    listener = Listener()
    hub.attach(member, client_id, listener)
    return listener


def test_a_jobs_messages_go_to_its_client_alone() -> None:
    hub = Hub()
    mine, other = listen(hub, "a"), listen(hub, "b")
    hub.tell("local", "a", PREVIEW)
    assert mine.heard == [(PREVIEW, False)]
    assert other.heard == []


def test_of_a_job_that_was_not_watched_a_late_socket_hears_all_but_previews() -> None:
    hub = Hub()
    late = listen(hub, "a")
    heard = [Event("progress", {}), RESULT, NodeText("1", "x")]
    for message in (PREVIEW, *heard):
        hub.tell("local", "a", message, watched=False)
    assert late.heard == [(message, False) for message in heard]


def test_a_late_socket_that_asks_for_previews_hears_them() -> None:
    hub = Hub()
    late = Listener(asks_for_previews=True)
    hub.attach("local", "a", late)
    hub.tell("local", "a", PREVIEW, watched=False)
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
    hub = Hub()
    listeners = [listen(hub, "a"), listen(hub, "b")]
    hub.tell("local", None, message)
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
    hub = Hub()
    listener = listen(hub, "a")
    hub.tell("local", None, Event(type_, {}))
    assert listener.heard == []


@pytest.mark.parametrize(
    "message",
    [Event("executed", {}), Event("execution_success", {}), Event("progress", {}), PREVIEW],
)
def test_of_a_job_without_client_a_socket_of_the_clouds_way_hears_all(message: Message) -> None:
    hub = Hub()
    listener, stranger = Listener(), Listener()
    hub.attach("local", "a", listener, hears_all=True)
    hub.attach("other", "a", stranger, hears_all=True)
    hub.tell("local", None, message)
    assert listener.heard == [(message, False)]
    assert stranger.heard == []


def test_of_jobs_of_other_clients_a_socket_of_the_clouds_way_hears_nothing() -> None:
    hub = Hub()
    listener = Listener()
    hub.attach("local", "a", listener, hears_all=True)
    hub.tell("local", "b", Event("executed", {}))
    hub.tell("local", "b", PREVIEW)
    assert listener.heard == []


def test_status_goes_to_all_sockets_of_the_member() -> None:
    hub = Hub()
    listeners = [listen(hub, "a"), listen(hub, "b")]
    stranger = listen(hub, "a", member="other")
    hub.broadcast("local", status(1))
    assert [len(listener.heard) for listener in listeners] == [1, 1]
    assert stranger.heard == []


def test_a_newer_socket_with_the_same_id_takes_over() -> None:
    hub = Hub()
    older, newer = listen(hub, "a"), listen(hub, "a")
    hub.tell("local", "a", PREVIEW)
    assert older.replaced
    assert older.heard == []
    assert newer.heard == [(PREVIEW, False)]


def test_the_older_sockets_end_does_not_touch_the_newer_one() -> None:
    hub = Hub()
    older, newer = listen(hub, "a"), listen(hub, "a")
    hub.detach("local", "a", older)
    hub.tell("local", "a", PREVIEW)
    assert len(newer.heard) == 1


def test_a_returning_client_learns_which_node_runs() -> None:
    hub = Hub()
    hub.tell("local", "a", Event("executing", {"node": "1.0.2", "display_node": "1"}))
    assert hub.attach("local", "a", Listener()) == "1"
    hub.tell("local", "a", Event("executing", {"node": None}))
    assert hub.attach("local", "a", Listener()) is None
