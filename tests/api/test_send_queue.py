"""The order in which a socket sends, and what it drops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.send_queue import OVERHEAD, SendQueue
from proxy.translate.messages import Event, Message, NodeText, Preview, status


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


def drain(outbox: SendQueue) -> list[Message]:
    found = []
    while (parcel := outbox.pop()) is not None:
        found.append(parcel.message)
    return found


def names(messages: list[Message]) -> list[str]:
    return [one.type if isinstance(one, Event) else type(one).__name__ for one in messages]


def results(messages: list[Message], job: str) -> list[bytes]:
    previews = [one for one in messages if isinstance(one, Preview)]
    return [one.image for one in previews if one.result and one.prompt_id == job]


def sent(*messages: Message, metadata: bool = False) -> list[str]:
    outbox = SendQueue()
    outbox.want_metadata(metadata)
    for message in messages:
        outbox.put(message)
    return names(drain(outbox))


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
    outbox = SendQueue()
    outbox.want_metadata(True)
    outbox.put(preview(leads=False), for_all=True)
    outbox.put(preview(leads=False))
    parcels = [outbox.pop(), outbox.pop()]
    assert [parcel and parcel.metadata for parcel in parcels] == [False, True]


def test_asking_for_metadata_sends_what_waited() -> None:
    outbox = SendQueue()
    outbox.put(preview())
    outbox.want_metadata(True)
    assert names(drain(outbox)) == ["Preview"]


def test_a_slow_reader_loses_the_oldest_previews() -> None:
    outbox = SendQueue(preview_limit=3 * OVERHEAD + 3)
    for number in range(5):
        outbox.put(preview(b"%d" % number, leads=False))
    left = drain(outbox)
    assert [one.image for one in left if isinstance(one, Preview)] == [b"2", b"3", b"4"]


def test_the_newest_preview_stays_however_large() -> None:
    outbox = SendQueue(preview_limit=1)
    outbox.put(preview(b"x" * 100, leads=False))
    assert len(outbox) == 1


def test_state_and_results_are_never_dropped() -> None:
    outbox = SendQueue(preview_limit=1)
    for message in (event("executing"), preview(result=True, leads=False), event("executed")):
        outbox.put(message)
        outbox.put(preview(leads=False))
    assert names(drain(outbox)) == ["executing", "Preview", "executed", "Preview"]


def test_it_overflows_by_bytes_and_then_takes_nothing() -> None:
    outbox = SendQueue(limit=3 * OVERHEAD)
    while not outbox.overflowed:
        outbox.put(status(1))
    waiting = len(outbox)
    outbox.put(status(1))
    assert (waiting, len(outbox)) == (3, 3)


def test_what_was_taken_makes_room() -> None:
    outbox = SendQueue(limit=3 * OVERHEAD)
    for _ in range(100):
        outbox.put(status(1))
        outbox.pop()
    assert not outbox.overflowed


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
    outbox = SendQueue(preview_limit=700)
    outbox.want_metadata(metadata)
    taken: list[Message] = []
    put: list[Message] = []
    for step in [*steps, event("executing", "a"), event("executing", "b")]:
        if step is None:
            parcel = outbox.pop()
            taken += [] if parcel is None else [parcel.message]
        else:
            put.append(step)
            outbox.put(step)
    taken += drain(outbox)
    events = [one for one in put if isinstance(one, Event)]
    assert [one for one in taken if isinstance(one, Event)] == events
    for job in ("a", "b"):
        assert results(taken, job) == results(put, job)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_reader_that_keeps_up_gets_every_preview(metadata: bool) -> None:
    outbox = SendQueue(preview_limit=1)
    outbox.want_metadata(metadata)
    got = 0
    for _ in range(10):
        outbox.put(preview(b"x" * 1000))
        outbox.put(event("progress"))
        got += names(drain(outbox)).count("Preview")
    assert got == 10
