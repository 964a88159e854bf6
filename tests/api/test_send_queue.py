"""The order in which messages are sent on a websocket, and which previews are dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.send_queue import SendQueue
from proxy.translate.events import (
    MESSAGE_OVERHEAD,
    Event,
    Message,
    NodeText,
    Preview,
    status,
)


def preview(
    image: bytes = b"\xff\xd8", *, job: str = "a", leads: bool = True, result: bool = False
) -> Preview:
    return Preview(
        prompt_id=job,
        node_id="1",
        display_node_id="1",
        parent_node_id=None,
        real_node_id="1",
        image=image,
        image_type="image/jpeg",
        result=result,
        leads=leads,
    )


def event(type_: str, job: str = "a") -> Event:
    return Event(type_, {"prompt_id": job})


def drain(queue: SendQueue) -> list[Message]:
    found = []
    while (parcel := queue.pop()) is not None:
        found.append(parcel.message)
    return found


def names(messages: list[Message]) -> list[str]:
    return [
        message.type if isinstance(message, Event) else type(message).__name__
        for message in messages
    ]


def results(messages: list[Message], job: str) -> list[bytes]:
    previews = [message for message in messages if isinstance(message, Preview)]
    return [preview.image for preview in previews if preview.result and preview.prompt_id == job]


def sent(*messages: Message, metadata: bool = False) -> list[str]:
    queue = SendQueue()
    queue.want_metadata(metadata)
    for message in messages:
        queue.put(message)
    return names(drain(queue))


def test_a_preview_with_metadata_comes_before_its_progress() -> None:
    assert sent(preview(), event("progress"), metadata=True) == ["Preview", "progress"]


def test_a_plain_preview_comes_behind_its_progress() -> None:
    assert sent(preview(), event("progress")) == ["progress", "Preview"]


def test_a_progress_state_between_them_keeps_comfyuis_order() -> None:
    messages = preview(), event("progress_state"), event("progress")
    assert sent(*messages) == ["progress_state", "progress", "Preview"]


def test_a_plain_preview_does_not_outlive_its_node() -> None:
    assert sent(preview(), event("executing")) == ["Preview", "executing"]


def test_the_status_of_the_queue_passes_a_waiting_preview() -> None:
    assert sent(preview(), status(1), event("progress")) == ["status", "progress", "Preview"]


def test_another_jobs_events_pass_a_waiting_preview() -> None:
    messages = preview(job="a"), event("executing", "b"), event("progress", "a")
    assert sent(*messages) == ["executing", "progress", "Preview"]


def test_another_jobs_progress_does_not_release_it() -> None:
    messages = preview(job="a"), event("progress", "b"), event("executed", "a")
    assert sent(*messages) == ["progress", "Preview", "executed"]


def test_a_second_preview_sends_the_first_one_on() -> None:
    messages = preview(b"1"), preview(b"2"), event("progress")
    assert sent(*messages) == ["Preview", "progress", "Preview"]


def test_a_preview_that_follows_its_progress_is_sent_at_once() -> None:
    assert sent(event("progress"), preview(leads=False)) == ["progress", "Preview"]


def test_a_text_keeps_its_place_behind_a_preview() -> None:
    assert sent(preview(), NodeText("1", "half")) == ["Preview", "NodeText"]


def test_previews_for_all_are_plain_for_a_socket_with_metadata() -> None:
    queue = SendQueue()
    queue.want_metadata(True)
    queue.put(preview(leads=False), for_all=True)
    queue.put(preview(leads=False))
    parcels = [queue.pop(), queue.pop()]
    assert [parcel and parcel.metadata for parcel in parcels] == [False, True]


def test_asking_for_metadata_sends_what_waited() -> None:
    queue = SendQueue()
    queue.put(preview())
    queue.want_metadata(True)
    assert names(drain(queue)) == ["Preview"]


def test_a_slow_reader_loses_the_oldest_previews() -> None:
    queue = SendQueue(max_preview_bytes=3 * MESSAGE_OVERHEAD + 3)
    for number in range(5):
        queue.put(preview(b"%d" % number, leads=False))
    left = drain(queue)
    assert [message.image for message in left if isinstance(message, Preview)] == [b"2", b"3", b"4"]


def test_the_newest_preview_stays_however_large() -> None:
    queue = SendQueue(max_preview_bytes=1)
    queue.put(preview(b"x" * 100, leads=False))
    assert len(queue) == 1


def test_state_and_results_are_never_dropped() -> None:
    queue = SendQueue(max_preview_bytes=1)
    for message in (
        event("executing"),
        preview(result=True, leads=False),
        event("executed"),
    ):
        queue.put(message)
        queue.put(preview(leads=False))
    assert names(drain(queue)) == ["executing", "Preview", "executed", "Preview"]


def test_it_overflows_by_bytes_and_then_takes_nothing() -> None:
    queue = SendQueue(max_bytes=3 * MESSAGE_OVERHEAD)
    while not queue.overflowed:
        queue.put(status(1))
    waiting = len(queue)
    queue.put(status(1))
    assert (waiting, len(queue)) == (3, 3)


def test_what_was_taken_makes_room() -> None:
    queue = SendQueue(max_bytes=3 * MESSAGE_OVERHEAD)
    for _ in range(100):
        queue.put(status(1))
        queue.pop()
    assert not queue.overflowed


MESSAGES = st.one_of(
    st.sampled_from(["progress", "progress_state", "executing", "executed"]).flatmap(
        lambda type_: st.sampled_from(["a", "b"]).map(lambda job: event(type_, job))
    ),
    st.builds(
        preview,
        st.binary(min_size=1, max_size=600),
        job=st.sampled_from(["a", "b"]),
        leads=st.booleans(),
        result=st.booleans(),
    ),
    st.just(status(1)),
)


@given(st.lists(st.one_of(MESSAGES, st.none()), max_size=40), st.booleans())
def test_state_and_results_arrive_all_and_in_order(
    steps: list[Message | None], metadata: bool
) -> None:
    queue = SendQueue(max_preview_bytes=700)
    queue.want_metadata(metadata)
    taken: list[Message] = []
    put: list[Message] = []
    for step in [*steps, event("executing", "a"), event("executing", "b")]:
        if step is None:
            parcel = queue.pop()
            taken += [] if parcel is None else [parcel.message]
        else:
            put.append(step)
            queue.put(step)
    taken += drain(queue)
    events = [message for message in put if isinstance(message, Event)]
    assert [message for message in taken if isinstance(message, Event)] == events
    for job in ("a", "b"):
        assert results(taken, job) == results(put, job)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_reader_that_keeps_up_gets_every_preview(metadata: bool) -> None:
    queue = SendQueue(max_preview_bytes=1)
    queue.want_metadata(metadata)
    got = 0
    for _ in range(10):
        queue.put(preview(b"x" * 1000))
        queue.put(event("progress"))
        got += names(drain(queue)).count("Preview")
    assert got == 10
