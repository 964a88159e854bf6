"""Messages of the bus, through bytes and back, and the wait for an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.samples import job

from proxy.bus import BusMessage, decode, encode
from proxy.jobs.conversion import stored_of
from proxy.jobs.messages import (
    CancelAnswered,
    HistoryChanged,
    JobAnswered,
    JobChanged,
    JobMessage,
    JobProgress,
    JobReceived,
    OverviewAnswered,
    topic_of,
)
from proxy.jobs.models import AccountView, JobState
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError
from proxy.translate.events import Binary, Event, Message, NodeText, Preview

KEY = JobKey("anna", "a")
#: What MessagePack has no place for.
LARGE = 2**80


@pytest.mark.parametrize(
    "message",
    [
        JobReceived(KEY, 7, promised=True),
        JobAnswered(KEY, {"1": {"seed": LARGE}}),
        CancelAnswered(True),
        JobChanged(
            stored_of(job(number=-1.5, outputs_to_execute=("2",), state=JobState.RUNNING)),
            JobProgress(share=0.5),
        ),
        HistoryChanged("anna", None),
        HistoryChanged("anna", ("a", "b")),
        OverviewAnswered(
            (JobChanged(stored_of(job()), JobProgress("slot", before=3)),),
            (AccountView("main", 3, 1, None, None, events=True),),
            {"anna": 1},
        ),
    ],
)
def test_nothing_is_lost_on_the_way(message: BusMessage) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("kind", [JobAnswered, CancelAnswered])
def test_a_refusal_arrives_with_all_that_it_says(kind: Any) -> None:
    error = LocalError(
        "no_credits",
        "There are no credits.",
        kind="unavailable",
        details="about",
        extra_info={"value": LARGE},
        node_errors={"1": {"errors": []}},
        retry_after=2.5,
    )
    answer = JobAnswered(KEY, error=error) if kind is JobAnswered else CancelAnswered(error=error)
    received = decode(encode(answer))
    assert isinstance(received, kind)
    assert received.error.fields() == error.fields()


messages = st.one_of(
    st.builds(
        Event,
        st.text(),
        st.dictionaries(st.text(), st.one_of(st.integers(), st.none(), st.text())),
    ),
    st.builds(
        Preview,
        *(st.text() for _ in range(3)),
        st.one_of(st.none(), st.text()),
        st.text(),
        st.binary(),
        st.sampled_from(["image/jpeg", "image/png"]),
        result=st.booleans(),
        leads=st.booleans(),
    ),
    st.builds(NodeText, st.text(), st.text()),
    st.builds(Binary, st.text(), st.binary()),
)


@given(messages)
def test_every_message_to_a_client_arrives_as_it_was(message: Message) -> None:
    sent = JobMessage(KEY, 7, "c", True, message, 1, 2, None)
    assert decode(encode(sent)) == sent


@given(st.text(max_size=20), st.text(max_size=20))
def test_clients_have_topics_of_their_own(client: str, other: str) -> None:
    assert (topic_of("anna", client) == topic_of("anna", other)) == (client == other)
    assert topic_of("anna", client).startswith(f"{topic_of('anna', None)}.")
    assert set(topic_of("anna", client).removeprefix("events.anna.")) <= set("0123456789abcdef")
