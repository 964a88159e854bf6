"""Which job an event or a frame belongs to, and one job from its first event to its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import gated
import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.samples import job
from stack import PATIENCE, Client
from waiting import ids, until

from proxy.engine.localiser import Localiser
from proxy.engine.router import LONGEST, PICTURE_BYTES, EventRouter
from proxy.engine.tracker import EventReceived, GiveUp, SnapshotReceived
from proxy.jobs.models import Job
from proxy.simulator import Simulator
from proxy.translate.codec import REDACTED
from proxy.translate.events import CloudFrame, CloudPicture, Preview
from proxy.translate.jobs import Snapshot
from proxy.translate.packs import Failure, PlainView, ViewedJob

SUBMIT = "POST /api/prompt"


async def test_a_slot_passes_on_as_soon_as_an_end_is_known(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    simulator.switches.late_detail = 2 * PATIENCE  # the outputs of the first never come
    await client.submit(gated.GRAPH)
    await client.submit(graphs.plain())
    opened.set()
    await until(lambda: simulator.calls[SUBMIT] == 2)


async def test_a_waiting_job_that_is_refused_fails_for_its_client(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    async with client.listening() as listener:
        first = await client.submit(gated.GRAPH)
        refused = await client.submit(graphs.plain())
        simulator.switches.refuse_prompt = "PARTNER_NODE_DISABLED"
        opened.set()
        await listener.until_end(first)
        listener.heard.clear()
        await listener.until_end(refused)
    assert [type_ for type_ in listener.types() if type_ != "executing"] == [
        "execution_start",
        "execution_cached",
        "execution_error",
    ]
    (error,) = listener.of("execution_error")
    assert error["exception_type"] == "PARTNER_NODE_DISABLED"
    assert "remove the node" in error["exception_message"]
    status = (await client.history(refused))["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert await ids(client) == []


PLAIN = b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8picture"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> EventRouter:
    return EventRouter(clock, keep=5.0, event_bytes=2000)


def follow(router: EventRouter, cloud_id: str) -> list[EventReceived | CloudFrame]:
    inbox: list[EventReceived | CloudFrame] = []
    router.add(cloud_id, inbox.append)
    return inbox


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


def test_events_of_strangers_are_forgotten_after_a_while(router: EventRouter, clock: Clock) -> None:
    router.on_event("execution_start", {"prompt_id": "a"})
    clock.now = 6.0
    router.on_event("execution_start", {"prompt_id": "b"})
    assert types(follow(router, "a")) == []


def test_nothing_is_forgotten_while_a_submission_is_under_way(
    router: EventRouter, clock: Clock
) -> None:
    with router.submission():
        router.on_event("execution_start", {"prompt_id": "a"})
        clock.now = 60.0
        router.on_event("executing", {"prompt_id": "a", "node": "1"})
        assert types(follow(router, "a")) == ["execution_start", "executing"]


def test_strangers_never_take_more_than_their_room(router: EventRouter) -> None:
    for number in range(10):
        router.on_event("progress", {"prompt_id": "a", "value": number})
    values = [item.data["value"] for item in follow(router, "a") if isinstance(item, EventReceived)]
    assert values == [7, 8, 9]


def picture(cloud_id: str, size: int) -> bytes:
    json = b'{"node_id": "1", "prompt_id": "%s"}' % cloud_id.encode()
    return b"\x00\x00\x00\x04" + len(json).to_bytes(4, "big") + json + b"\xff\xd8" + bytes(size)


def test_strangers_pictures_are_bounded_in_bytes_and_push_out_no_event(clock: Clock) -> None:
    router = EventRouter(clock)
    with router.submission():
        router.on_event("execution_start", {"prompt_id": "a"})
        for _ in range(4096):
            router.on_frame(picture("b", 100_000))
        assert router.held < PICTURE_BYTES + 10_000
        router.on_frame(picture("a", 10))
        assert types(follow(router, "a")) == ["execution_start", "frame"]
        assert 160 < len(follow(router, "b")) < 168
    assert router.held == 0


def test_pictures_of_strangers_are_kept_while_a_submission_is_under_way_alone(
    router: EventRouter, clock: Clock
) -> None:
    router.on_frame(picture("a", 10))
    assert router.held == 0
    with router.submission():
        router.on_frame(picture("a", 10))
    clock.now = 6.0
    router.on_event("execution_start", {"prompt_id": "b"})
    assert types(follow(router, "a")) == []


def test_not_even_a_submission_keeps_anything_for_ever(router: EventRouter, clock: Clock) -> None:
    with router.submission():
        router.on_event("execution_start", {"prompt_id": "a"})
        clock.now = LONGEST + 1
        router.on_event("execution_start", {"prompt_id": "b"})
        assert types(follow(router, "a")) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["event", "frame"]))))
def test_what_waited_comes_in_its_order_and_leaves_nothing(
    messages: list[tuple[str, str]],
) -> None:
    router = EventRouter(Clock())
    with router.submission():
        for cloud_id, kind in messages:
            if kind == "event":
                router.on_event("event", {"prompt_id": cloud_id})
            else:
                router.on_frame(picture(cloud_id, 1))
        for cloud_id in "ab":
            expected = [kind for one, kind in messages if one == cloud_id]
            assert types(follow(router, cloud_id)) == expected
    assert router.held == 0


def test_a_removed_job_gets_nothing(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.remove("a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    assert types(inbox) == []


def test_a_frame_without_an_id_belongs_to_the_only_running_job(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_frame(PLAIN)
    assert inbox[-1] == CloudPicture(b"\xff\xd8picture", "image/jpeg")


def test_a_frame_without_an_id_is_not_guessed_between_two_jobs(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_event("executing", {"prompt_id": "somebody else's", "node": "1"})
    router.on_frame(PLAIN)
    assert types(inbox) == ["executing"]


def test_a_job_that_has_ended_is_no_candidate(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "somebody else's", "node": "1"})
    router.on_event("execution_success", {"prompt_id": "somebody else's"})
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.on_frame(PLAIN)
    assert types(inbox) == ["executing", "frame"]


def test_a_job_with_a_blocked_branch_runs_on(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    blocked = {"prompt_id": "a", "node_id": "1", "exception_type": "ExecutionBlocked"}
    router.on_event("execution_error", blocked)
    router.on_frame(PLAIN)
    assert types(inbox)[-1] == "frame"


def test_after_a_lost_socket_nobody_is_known_to_run(router: EventRouter) -> None:
    inbox = follow(router, "a")
    router.on_event("executing", {"prompt_id": "a", "node": "1"})
    router.socket_lost()
    router.on_frame(PLAIN)
    assert types(inbox) == ["executing"]


def test_a_frame_with_an_id_goes_to_its_job(router: EventRouter) -> None:
    inbox = follow(router, "a")
    json = b'{"node_id": "1", "prompt_id": "a"}'
    router.on_frame(b"\x00\x00\x00\x04" + len(json).to_bytes(4, "big") + json + b"\xff\xd8x")
    assert types(inbox) == ["frame"]


ACCOUNT_KEY, LENT = "comfyui-of-the-account", "comfyui-of-the-client"
GRAPH = {
    "1": {"class_type": "Fox", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "3": {"class_type": "Unused", "inputs": {}},
}


class Files:
    """Files with one name that the cloud knows by its hash."""

    @property
    def outputs(self) -> Files:
        return self

    async def reveal(self, _member: str, value: Any, _job: str | None = None) -> Any:
        return _renamed(value)

    async def localise(
        self, _member: str, prompt_id: str, node: str, _node: Any, output: Any, *, account: str
    ) -> Any:
        return {**_renamed(output), "of": [prompt_id, node, account]}


def _renamed(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("hash.png", "cat.png")
    if isinstance(value, dict):
        return {key: _renamed(one) for key, one in value.items()}
    return [_renamed(one) for one in value] if isinstance(value, list) else value


class Packs:
    """Packs that have rewritten nothing."""

    def view(self, job: ViewedJob) -> PlainView:
        return PlainView(job.graph)


@dataclass
class Engine:
    """What a localiser knows of the engine."""

    files: Files = field(default_factory=Files)
    secrets: tuple[str, ...] = (ACCOUNT_KEY,)
    packs: Packs = field(default_factory=Packs)


def localiser(**fields: Any) -> Localiser:
    made: Job = job("one", graph=GRAPH, account="main", **fields)
    return Localiser(made, Engine())  # type: ignore[arg-type]


async def test_an_output_gets_local_names() -> None:
    told = EventReceived("executed", {"node": "2", "output": {"images": ["hash.png"]}})
    local = await localiser().localised(told)
    output = {"images": ["cat.png"], "of": ["one", "2", "main"]}
    assert local == EventReceived("executed", {"node": "2", "output": output})


async def test_no_key_is_shown_whatever_a_node_makes_of_it() -> None:
    local = localiser(credentials={"api_key_comfy_org": LENT})
    shown = f"keys {ACCOUNT_KEY} and {LENT}"
    hidden = f"keys {REDACTED} and {REDACTED}"
    error = EventReceived("execution_error", {"exception_message": shown, shown: [shown]})
    assert await local.localised(error) == EventReceived(
        "execution_error", {"exception_message": hidden, hidden: [hidden]}
    )
    text = EventReceived("executed", {"node": "2", "output": {"text": [shown]}})
    told = await local.localised(text)
    assert isinstance(told, EventReceived)
    assert told.data["output"]["text"] == [hidden]


async def test_a_snapshot_is_local_in_all_that_clients_see_of_it() -> None:
    snapshot = Snapshot(
        "cloud",
        "failed",
        settled=True,
        outputs={"2": {"images": ["hash.png"]}, "odd": "hash.png"},
        execution_error={"exception_message": f"hash.png {ACCOUNT_KEY}"},
        execution_status={"messages": [["execution_error", {"why": "hash.png"}]]},
    )
    local = await localiser().localised(SnapshotReceived(snapshot))
    assert isinstance(local, SnapshotReceived)
    seen = local.snapshot
    assert seen.outputs == {
        "2": {"images": ["cat.png"], "of": ["one", "2", "main"]},
        "odd": "hash.png",
    }
    assert seen.execution_error == {"exception_message": f"cat.png {REDACTED}"}
    assert seen.execution_status == {"messages": [["execution_error", {"why": "cat.png"}]]}


async def test_a_list_without_outputs_has_none_afterwards() -> None:
    listed = SnapshotReceived(Snapshot("cloud", "in_progress", settled=False), detail=False)
    assert await localiser().localised(listed) == listed


@pytest.mark.parametrize(
    "what",
    [
        EventReceived("progress", {"node": "1", "value": 1, "max": 2}),
        CloudPicture(b"picture", "image/jpeg"),
        GiveUp("lost", lost=True),
    ],
)
async def test_what_names_nothing_of_the_cloud_passes_through(what: Any) -> None:
    local = localiser()
    assert list(local.of_member(what)) == [what]
    assert await local.localised(what) is what


def test_a_helper_that_fails_ends_the_job_as_a_node_does_that_has_begun() -> None:
    failure = Failure("1", "ValueError", "no fox", {"size": ["0"]})
    began, ended = localiser(outputs_to_execute=["2"]).failing(failure)
    assert began == EventReceived("executing", {"node": "1", "display_node": "1"})
    assert isinstance(ended, SnapshotReceived)
    assert (ended.snapshot.status, ended.snapshot.settled) == ("failed", True)
    error = ended.snapshot.execution_error
    assert error is not None
    assert (error["node_id"], error["exception_message"]) == ("1", "no fox\n")
    assert error["current_outputs"] == ["1", "2"], "the third node does not run"


async def test_a_picture_is_shown_as_it_is_where_nobody_takes_it_for_a_result() -> None:
    picture = Preview("one", "1", "1", None, "1", b"\x89PNG", "image/png")
    assert await localiser().view.preview(picture) is picture
