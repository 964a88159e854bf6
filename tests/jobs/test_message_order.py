"""The order of a job's messages at a replica, however they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proxy.budget import MemoryBudget
from proxy.jobs.message_order import (
    Delivery,
    KnownEnds,
    StepBuffer,
    step_of,
)
from proxy.jobs.messages import JobMessage
from proxy.jobs.models import Job
from proxy.storage.job_tables import JobKey
from proxy.translate.events import Binary, Event, Message, NodeText, Preview

NODES = ("3", "5", "9")


def event(type_: str, **data: object) -> Event:
    return Event(type_, {"prompt_id": "p", **data})


START, CACHED = event("execution_start"), event("execution_cached", nodes=[])
SUCCESS, OVER = event("execution_success"), event("executing", node=None)
PROGRESS = event("progress", node="3", value=1, max=2)
BLOCKED = event("execution_error", node_id="4", exception_type="ExecutionBlocked")
RESULT = Preview("p", "5", "5", None, "5", b"png", "image/png", result=True)


def runs(node: str) -> Event:
    return event("executing", node=node)


def output(node: str) -> Event:
    return event("executed", node=node, output={})


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (START, "execution_start"),
        (CACHED, "execution_cached"),
        (runs("3"), "executing 3"),
        (output("3"), "executed 3"),
        (BLOCKED, "blocked 4"),
        (SUCCESS, "end"),
        (event("execution_error", node_id="4"), "end"),
        (event("execution_interrupted"), "end"),
        (OVER, "over"),
        (RESULT, ""),
        (Binary("p", b"x"), ""),
        (PROGRESS, None),
        (event("progress_state"), None),
        (event("of a node pack"), None),
        (NodeText("3", "x"), None),
        (Preview("p", "5", "5", None, "5", b"jpg", "image/jpeg"), None),
    ],
)
def test_steps_and_their_names(message: Message, name: str | None) -> None:
    assert step_of(message) == name


JOB = Job("p", "m", 0, None, "c", 0, order=7)


def numbered(messages: Sequence[Message], epoch: int = 1) -> list[JobMessage]:
    """The messages as an engine sends them."""
    buffer = StepBuffer(epoch, MemoryBudget(2**28).member("anna", "job"))
    return [added(buffer, message) for message in messages]


def added(buffer: StepBuffer, message: Message) -> JobMessage:
    """The next message, which the buffer keeps if it is a step."""
    position = buffer.position(message)
    news = JobMessage(JOB.key, JOB.order, JOB.client_id, JOB.watched, message, *position)
    buffer.keep(news)
    return news


def delivery() -> Delivery:
    return Delivery(JOB.key, "c")


def heard(to: Delivery, messages: Sequence[JobMessage]) -> list[Message]:
    """What a socket gets of messages that come one after the other."""
    return [message.message for message in messages if to.receive(message)]


LIFE = [START, CACHED, PROGRESS, runs("3"), PROGRESS, output("3"), RESULT, SUCCESS, OVER]


def test_what_comes_in_order_is_delivered() -> None:
    assert heard(delivery(), numbered(LIFE)) == LIFE


def test_what_comes_again_is_dropped() -> None:
    sent = numbered(LIFE)
    assert heard(delivery(), [*sent[:6], *sent]) == LIFE


def test_behind_a_gap_nothing_is_delivered_until_it_is_filled() -> None:
    sent, to = numbered(LIFE), delivery()
    assert heard(to, [sent[0], *sent[3:6]]) == LIFE[:1]
    assert to.lacking
    assert heard(to, sent[1:]) == LIFE[1:]
    assert not to.lacking


@pytest.mark.parametrize("lost", range(len(LIFE) - 1))
def test_an_end_waits_for_what_was_lost(lost: int) -> None:
    sent, to = numbered(LIFE), delivery()
    got = heard(to, [*sent[:lost], *sent[lost + 1 :]])
    if step_of(LIFE[lost]) is not None:
        assert got == LIFE[:lost]
        assert [*got, *to.rest_of(LIFE)][-2:] == [SUCCESS, OVER]
    else:
        assert got == [*LIFE[:lost], *LIFE[lost + 1 :]]


def test_what_an_engine_could_not_keep_is_passed_over_until_the_end() -> None:
    sent, to = numbered(LIFE), delivery()
    lost = next(index for index, message in enumerate(LIFE) if message == output("3"))
    got = heard(to, [*sent[:lost], replace(sent[lost], message=None), *sent[lost + 1 :]])
    assert got == [*LIFE[:lost], RESULT]
    assert to.lacking
    assert output("3") in list(to.rest_of(LIFE))


def test_another_engine_tells_only_what_was_not_sent() -> None:
    to = delivery()
    first = [START, CACHED, runs("3"), output("3"), runs("5")]
    then = [START, CACHED, runs("5"), output("5"), runs("3"), output("3"), SUCCESS, OVER]
    assert heard(to, numbered(first)) == first
    assert heard(to, numbered(then, epoch=2)) == [output("5"), SUCCESS, OVER]


def test_messages_of_an_engine_whose_term_is_over_are_dropped() -> None:
    to, sent = delivery(), numbered(LIFE)
    assert heard(to, [*sent[:2], *numbered(LIFE[:3], epoch=2), *sent[2:]]) == LIFE[:3]


def test_a_lost_beginning_of_another_engines_telling_is_a_gap() -> None:
    to = delivery()
    heard(to, numbered(LIFE[:4]))
    assert heard(to, numbered(LIFE, epoch=2)[2:]) == []
    assert to.lacking


def test_who_joins_a_running_job_hears_the_rest_of_it() -> None:
    to = delivery()
    to.number = None
    assert heard(to, numbered(LIFE)[4:]) == LIFE[4:]


def test_who_joins_a_running_job_misses_nothing_from_then_on() -> None:
    to, sent = delivery(), numbered(LIFE)
    to.number = None
    assert heard(to, [sent[4], *sent[6:]]) == LIFE[4:5]
    assert to.lacking


def test_who_has_joined_a_running_job_gets_no_beginning_behind_what_came() -> None:
    to, sent = delivery(), numbered(LIFE)
    to.number = None
    assert heard(to, sent[4:6]) == LIFE[4:6]
    assert list(to.rest_of([START, CACHED, output("3"), output("9"), SUCCESS, OVER])) == [
        output("9"),
        SUCCESS,
        OVER,
    ]


def test_behind_the_end_only_the_last_message_is_left() -> None:
    to = delivery()
    to.number = None
    assert heard(to, numbered(LIFE)[7:8]) == [SUCCESS]
    assert list(to.rest_of([START, CACHED, output("3"), SUCCESS, OVER])) == [OVER]


def test_of_a_life_only_what_was_not_sent_is_left() -> None:
    to = delivery()
    heard(to, numbered(LIFE[:4]))
    state = event("progress_state")
    whole = [START, CACHED, state, runs("3"), state, output("3"), state, SUCCESS, OVER]
    assert list(to.rest_of(whole)) == [output("3"), state, SUCCESS, OVER]
    assert list(delivery().rest_of(whole)) == whole


# --- any weather -------------------------------------------------------------------------------


@st.composite
def _life(draw: st.DrawFn) -> list[Message]:
    """A job's life as an engine tells it, its nodes in any order."""
    life: list[Message] = [START, CACHED]
    for node in draw(st.permutations(NODES)):
        life += [runs(node), *draw(st.lists(st.sampled_from([PROGRESS, BLOCKED]), max_size=2))]
        life.append(output(node))
    blocked = [index for index, message in enumerate(life) if message == BLOCKED]
    life = [message for index, message in enumerate(life) if index not in blocked[1:]]
    return [*life, SUCCESS, OVER]


def _repeated(data: st.DataObject, step: JobMessage) -> JobMessage:
    """A step as the engine tells it again; there may have been no room for an output."""
    output = (step.step or "").startswith("executed")
    lost = output and data.draw(st.booleans(), label="no room")
    return replace(step, message=None) if lost else step


def check(got: Sequence[Message]) -> None:
    """What each socket is promised of a job."""
    names = [name for message in got if (name := step_of(message))]
    counts = Counter(names)
    outputs = [f"executed {node}" for node in NODES]
    assert all(counts[name] == 1 for name in ("execution_start", *outputs, "end", "over"))
    assert max(counts.values()) == 1
    assert names[0] == "execution_start"
    assert names[-2:] == ["end", "over"]
    for node in NODES:
        if f"executing {node}" in names:
            assert names.index(f"executing {node}") < names.index(f"executed {node}")


@given(st.data())
def test_each_socket_hears_each_step_once_and_in_order(data: st.DataObject) -> None:
    """Engines take a job over from each other; the bus loses, repeats and exchanges; now and then
    the replica asks for what it lacks, and in the end it reads the rest from the storage."""
    to, got = delivery(), list[Message]()
    tellings = data.draw(st.lists(_life(), min_size=1, max_size=3), label="tellings")
    for epoch, life in enumerate(tellings, 1):
        last = epoch == len(tellings)
        events = len(life) if last else data.draw(st.integers(0, len(life) - 3), label="told")
        sent = numbered(life, epoch)[:events]
        way = [
            message
            for message in sent
            for _ in range(data.draw(st.sampled_from([1, 1, 1, 0, 0, 2]), label="times"))
        ]
        exchanged = st.permutations(range(len(way))) if data.draw(st.booleans()) else None
        if exchanged is not None:
            way = [way[index] for index in data.draw(exchanged, label="order")]
        for message in way:
            got += heard(to, [message])
            if to.lacking and data.draw(st.booleans(), label="asks"):
                got += heard(to, [_repeated(data, step) for step in sent if step.step is not None])
        if to.sent and "over" in to.sent:
            break
    if "over" not in to.sent | to.sent_before:
        got += to.rest_of(tellings[-1])
    check(got)


# --- what the engine keeps -----------------------------------------------------------------------

LARGE = Event("executed", {"prompt_id": "p", "node": "3", "output": {"text": ["x" * 5000]}})
PICTURE = Preview("p", "3", "3", None, "3", b"x" * 5000, "image/png", result=True)
FRAME = Binary("p", b"x" * 5000)
STEPS: list[Message] = [START, LARGE, PICTURE, FRAME]


def positions(messages: Sequence[JobMessage]) -> list[tuple[int, str | None, Message | None]]:
    return [(message.number, message.step, message.message) for message in messages]


def test_a_message_says_which_job_it_is_about() -> None:
    (sent,) = numbered([START], epoch=3)
    assert (sent.key, sent.order, sent.epoch) == (JobKey("m", "p"), 7, 3)


def test_steps_have_numbers_and_other_messages_that_of_the_step_before() -> None:
    assert positions(numbered([PROGRESS, START, PROGRESS, LARGE])) == [
        (0, None, PROGRESS),
        (1, "execution_start", START),
        (1, None, PROGRESS),
        (2, "executed 3", LARGE),
    ]


def test_what_is_behind_a_step_is_kept_within_the_budget() -> None:
    budget = MemoryBudget(2**20)
    buffer = StepBuffer(1, budget.member("anna", "job"))
    sent = [added(buffer, each) for each in (START, PROGRESS, *STEPS[1:])]
    steps = [sent[0], *sent[2:]]
    assert buffer.after(1, 0) == steps
    assert buffer.after(1, 3) == steps[3:]
    assert buffer.after(1, 4) == []
    assert buffer.after(0, 3) == steps  # of another epoch
    assert budget.held()["job"] > 15_000
    buffer.close()
    assert budget.held()["job"] == 0
    assert buffer.after(1, 0) == []


def test_what_does_not_fit_is_counted_and_the_small_steps_are_kept() -> None:
    buffer = StepBuffer(1, MemoryBudget(100).member("anna", "job"))
    assert [added(buffer, each).message for each in STEPS] == STEPS
    assert positions(buffer.after(1, 0)) == [
        (1, "execution_start", START),
        (2, "executed 3", None),
        (3, "", None),
        (4, "", None),
    ]


# --- ends --------------------------------------------------------------------------------------


@given(st.permutations(range(1, 9)), st.integers(0, 8))
def test_of_ends_in_any_order_the_last_of_an_unbroken_row_counts(
    ordinals: list[int], count: int
) -> None:
    ends = KnownEnds(0)
    for ordinal in ordinals[:count]:
        ends.add(ordinal)
    known = set(ordinals[:count])
    assert ends.last == next(last for last in range(10) if last + 1 not in known)
    ends.read(5)
    assert ends.last >= 5
    assert all(ordinal > ends.last for ordinal in ends.ahead)


def test_a_row_of_ends_that_is_broken_for_long_takes_no_more_memory() -> None:
    ends = KnownEnds(0)
    for ordinal in range(2, 5000):
        ends.add(ordinal)
    assert len(ends.ahead) == 1000
