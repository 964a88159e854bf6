"""The states of a job, and what api and engine say to each other, through bytes and back."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.samples import job

from proxy.bus import BusMessage, EventBus, decode, encode
from proxy.jobs.conversion import progress_of, stored_of
from proxy.jobs.models import (
    TRANSITIONS,
    AccountView,
    CancelAnswered,
    EngineAnswer,
    HistoryChanged,
    JobAnswered,
    JobChanged,
    JobMessage,
    JobProgress,
    JobReceived,
    JobState,
    OverviewAnswered,
    QueueChanged,
    shown_state,
    topic_of,
)
from proxy.storage.jobs import JobKey
from proxy.translate.errors import LocalError
from proxy.translate.events import Binary, Event, Message, NodeText, Preview

DOCS = Path(__file__).parents[2] / "docs" / "how-it-works.md"


def test_every_state_has_a_way_to_an_end() -> None:
    assert set(TRANSITIONS) == set(JobState)
    for state in JobState:
        reached, todo = {state}, [state]
        while todo:
            for after in TRANSITIONS[todo.pop()] - reached:
                reached.add(after)
                todo.append(after)
        assert any(one.ended for one in reached)


def test_what_has_ended_goes_nowhere() -> None:
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_the_documents_have_the_table() -> None:
    row = re.compile(r"^\| `(\w+)` \| (?:\w.+) \| (.+) \|$", re.MULTILINE)
    table = dict(row.findall(DOCS.read_text(encoding="utf-8")))
    assert list(table) == list(JobState)
    for state, following in table.items():
        expected = [f"`{one}`" for one in JobState if one in TRANSITIONS[JobState(state)]]
        assert following == (", ".join(expected) or "nothing")


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(job(credentials={"api_key_comfy_org": "secret"}))


KEY = JobKey("anna", "one")
#: What MessagePack has no place for.
LARGE = 2**80


@pytest.mark.parametrize(
    "said",
    [
        JobReceived(KEY, 7, {"1": {"errors": [], "seed": LARGE}}, promised=True),
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
        ),
    ],
)
def test_nothing_is_lost_on_the_way(said: BusMessage) -> None:
    assert decode(encode(said)) == said


def test_the_job_itself_stays_in_its_process() -> None:
    heard = decode(encode(JobReceived(KEY, 7, job=job())))
    assert heard == JobReceived(KEY, 7)


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
    said = JobAnswered(KEY, error=error) if kind is JobAnswered else CancelAnswered(error=error)
    heard = decode(encode(said))
    assert isinstance(heard, kind)
    assert heard.error.fields() == error.fields()


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
    told = JobMessage("anna", "c", "one", True, message, 7)
    assert decode(encode(told)) == told


@given(st.text(max_size=20), st.text(max_size=20))
def test_clients_have_topics_of_their_own(one: str, other: str) -> None:
    assert (topic_of("anna", one) == topic_of("anna", other)) == (one == other)
    assert topic_of("anna", one).startswith(f"{topic_of('anna', None)}.")
    assert set(topic_of("anna", one).removeprefix("events.anna.")) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (JobState.QUEUED, "waiting"),
        (JobState.SUBMITTING, "sending"),
        (JobState.UNKNOWN, "sending"),
        (JobState.SUBMITTED, "pending"),
        (JobState.RUNNING, "running"),
    ],
)
def test_admins_see_how_far_a_job_is(state: JobState, shown: str) -> None:
    assert shown_state(stored_of(job(state=state))) == shown


def test_what_is_in_memory_alone_is_told_beside_the_row() -> None:
    waits = job(reason="slot", message="Later.", label="a fox")
    assert progress_of(waits) == JobProgress("slot", "Later.")
    assert stored_of(waits).label == "a fox"


async def test_the_first_answer_of_its_kind_counts() -> None:
    bus = EventBus()
    with EngineAnswer(bus, "answers.a", CancelAnswered) as answered:
        bus.publish("answers.a", QueueChanged("anna"))
        bus.publish("answers.b", CancelAnswered(False))
        assert await answered.within(0) is None
        asyncio.get_running_loop().call_soon(bus.publish, "answers.a", CancelAnswered(True))
        assert await answered.within(10) == CancelAnswered(True)
        bus.publish("answers.a", CancelAnswered(False))
        assert await answered.within(10) == CancelAnswered(True)
