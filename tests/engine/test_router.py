"""Which job an event or a frame belongs to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stopped_clock import StoppedClock

from proxy.engine.router import LONGEST, PICTURE_BYTES, EventRouter
from proxy.engine.tracker import EventReceived
from proxy.translate.frames import CloudFrame, CloudPicture, parse_frame

SUBMIT = "POST /api/prompt"


PLAIN = b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8picture"


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(0.0)


@pytest.fixture
def router(clock: StoppedClock) -> EventRouter:
    return EventRouter({}, clock.monotonic, keep=5.0, event_bytes=2000)


class FakeFollower:
    def __init__(self) -> None:
        self.posted: list[EventReceived | CloudFrame] = []
        self.gaps = 0

    def post(self, happening: EventReceived | CloudFrame) -> None:
        self.posted.append(happening)

    def events_lost(self) -> None:
        self.gaps += 1


def follow(
    router: EventRouter, cloud_id: str, member: str = "ann"
) -> list[EventReceived | CloudFrame]:
    follower = FakeFollower()
    job: Any = SimpleNamespace(cloud_id=cloud_id, follower=follower, member=member)
    jobs: Any = router._jobs
    jobs[cloud_id] = job
    router.catch_up(job)
    return follower.posted


def types(inbox: list[EventReceived | CloudFrame]) -> list[str]:
    return [item.type if isinstance(item, EventReceived) else "frame" for item in inbox]


def test_an_event_reaches_its_job_alone(router: EventRouter) -> None:
    first, second = follow(router, "a"), follow(router, "b")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    assert (types(first), types(second)) == (["executing"], [])


def test_events_that_are_faster_than_the_answer_wait_for_it(router: EventRouter) -> None:
    router.on_event("execution_start", {"prompt_id": "a"})
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    assert types(follow(router, "a")) == ["execution_start", "executing"]


def test_events_of_strangers_are_forgotten_after_a_while(
    router: EventRouter, clock: StoppedClock
) -> None:
    router.on_event("execution_start", {"prompt_id": "a"})
    clock.at = 6.0
    router.on_event("execution_start", {"prompt_id": "b"})
    assert types(follow(router, "a")) == []


def test_nothing_is_forgotten_while_a_submission_is_under_way(
    router: EventRouter, clock: StoppedClock
) -> None:
    with router.submission():
        router.on_event("execution_start", {"prompt_id": "a"})
        clock.at = 60.0
        router.on_event("executing", {"prompt_id": "a", "node": "1"})
        assert types(follow(router, "a")) == ["execution_start", "executing"]


def test_strangers_never_take_more_than_their_room(router: EventRouter) -> None:
    for number in range(10):
        router.on_event("progress", {"prompt_id": "a", "value": number})
    values = [item.data["value"] for item in follow(router, "a") if isinstance(item, EventReceived)]
    assert values == [7, 8, 9]


def frame_of(data: bytes) -> CloudFrame:
    frame = parse_frame(data)
    assert frame is not None
    return frame


def picture(cloud_id: str, size: int) -> bytes:
    json = b'{"node_id": "1", "prompt_id": "%s"}' % cloud_id.encode()
    return b"\x00\x00\x00\x04" + len(json).to_bytes(4, "big") + json + b"\xff\xd8" + bytes(size)


def test_strangers_pictures_are_bounded_in_bytes_and_push_out_no_event(clock: StoppedClock) -> None:
    router = EventRouter({}, clock.monotonic)
    with router.submission():
        router.on_event("execution_start", {"prompt_id": "a"})
        for _ in range(4096):
            router.on_frame(frame_of(picture("b", 100_000)))
        assert router.held < PICTURE_BYTES + 10_000
        router.on_frame(frame_of(picture("a", 10)))
        assert types(follow(router, "a")) == ["execution_start", "frame"]
        assert 160 < len(follow(router, "b")) < 168
    assert router.held == 0


def test_pictures_of_strangers_are_kept_while_a_submission_is_under_way_alone(
    router: EventRouter, clock: StoppedClock
) -> None:
    router.on_frame(frame_of(picture("a", 10)))
    assert router.held == 0
    with router.submission():
        router.on_frame(frame_of(picture("a", 10)))
    clock.at = 6.0
    router.on_event("execution_start", {"prompt_id": "b"})
    assert types(follow(router, "a")) == []


def test_not_even_a_submission_keeps_anything_for_ever(
    router: EventRouter, clock: StoppedClock
) -> None:
    with router.submission():
        router.on_event("execution_start", {"prompt_id": "a"})
        clock.at = LONGEST + 1
        router.on_event("execution_start", {"prompt_id": "b"})
        assert types(follow(router, "a")) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["event", "frame"]))))
def test_what_waited_comes_in_its_order_and_leaves_nothing(
    messages: list[tuple[str, str]],
) -> None:
    router = EventRouter({}, StoppedClock(0.0).monotonic)
    with router.submission():
        for cloud_id, kind in messages:
            if kind == "event":
                router.on_event("event", {"prompt_id": cloud_id})
            else:
                router.on_frame(frame_of(picture(cloud_id, 1)))
        for cloud_id in "ab":
            expected = [kind for message, kind in messages if message == cloud_id]
            assert types(follow(router, cloud_id)) == expected
    assert router.held == 0


def test_a_job_that_is_followed_no_longer_gets_nothing(router: EventRouter) -> None:
    inbox = follow(router, "a")
    jobs: Any = router._jobs
    del jobs["a"]
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    assert types(inbox) == []


def test_a_frame_without_an_id_belongs_to_the_only_running_job(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_frame(frame_of(PLAIN))
    assert inbox[-1] == CloudPicture(b"\xff\xd8picture", "image/jpeg")


def test_a_frame_without_an_id_is_not_guessed_between_two_jobs(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_event("executing", {"prompt_id": "somebody else's", "node": "1"})
    router.on_frame(frame_of(PLAIN))
    assert types(inbox) == ["executing"]


def test_a_frame_without_an_id_is_not_guessed_while_another_member_has_a_job(
    router: EventRouter,
) -> None:
    inbox = follow(router, "a"), follow(router, "b", "bob")  # whose beginning got lost
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_frame(frame_of(PLAIN))
    assert "frame" not in types([*inbox[0], *inbox[1]])


def test_a_frame_without_an_id_is_not_guessed_while_a_job_of_another_member_is_on_its_way(
    clock: StoppedClock,
) -> None:
    placed: Any = [SimpleNamespace(member="bob")]  # the answer with its id is under way
    router = EventRouter({}, clock.monotonic, placed=placed)
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_frame(frame_of(PLAIN))
    placed.clear()
    assert types(inbox) == ["executing"]
    router.on_frame(frame_of(PLAIN))
    assert types(inbox) == ["executing", "frame"]


def test_a_job_that_has_ended_is_no_candidate(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "somebody else's", "node": "1"})
    router.on_event("execution_success", {"prompt_id": "somebody else's"})
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_frame(frame_of(PLAIN))
    assert types(inbox) == ["executing", "frame"]


def test_a_late_event_of_a_job_that_has_ended_does_not_let_it_run(clock: StoppedClock) -> None:
    router = EventRouter({}, clock.monotonic, ended={"b"})
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_event("executing", {"prompt_id": "b", "node": "9"})
    router.on_event("executing", {"prompt_id": "a", "node": "2"})
    router.on_frame(frame_of(PLAIN))
    assert types(inbox) == ["executing", "executing", "frame"]


def test_a_job_with_a_blocked_branch_runs_on(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    blocked = {"prompt_id": "a", "node_id": "1", "exception_type": "ExecutionBlocked"}
    router.on_event("execution_error", blocked)
    router.on_frame(frame_of(PLAIN))
    assert types(inbox)[-1] == "frame"


def test_a_strangers_job_is_forgotten_with_the_last_of_ours(router: EventRouter) -> None:
    router.on_event("executing", {"prompt_id": "stranger", "node": "1"})
    follow(router, "a")
    router._jobs.pop("a")  # type: ignore[attr-defined]
    router.forget("a")
    inbox = follow(router, "b")
    router.on_event("executing", {"prompt_id": "b", "node": "1"})
    router.on_frame(parse_frame(PLAIN))
    assert types(inbox) == ["executing", "frame"]


def test_after_lost_events_nobody_is_known_to_run(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.events_lost()
    router.on_frame(frame_of(PLAIN))
    assert types(inbox) == ["executing"]


def test_jobs_know_that_events_were_lost(router: EventRouter) -> None:
    follow(router, "a")
    router.events_lost()
    [job] = router._jobs.values()
    follower: Any = job.follower
    assert follower.gaps == 1


def test_a_frame_with_an_id_goes_to_its_job(router: EventRouter) -> None:
    inbox = follow(router, "a")
    json = b'{"node_id": "1", "prompt_id": "a"}'
    data = b"\x00\x00\x00\x04" + len(json).to_bytes(4, "big") + json + b"\xff\xd8x"
    router.on_frame(frame_of(data))
    assert types(inbox) == ["frame"]
