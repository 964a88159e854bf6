"""Targets: answers, events and frames of the cloud."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import ClientResponse
from fuzz import seeds
from fuzz.harness import of_bytes, of_json, of_text
from graphs import plain
from yarl import URL

from proxy.cloud import answers
from proxy.cloud.answers import USUAL, Answer
from proxy.cloud.downloads import redirect_target
from proxy.cloud.errors import CloudError, refusal
from proxy.cloud.resilience import retry_after
from proxy.engine.tracker import EventReceived, GiveUp, SnapshotReceived, Tracker
from proxy.files.given_names import GivenName, matching_names
from proxy.translate import codec, errors, events, outputs, plans, snapshots
from proxy.translate.assets import of_cloud
from proxy.translate.frames import encode_text, parse_frame, without_secret
from proxy.translate.output_files import (
    extension,
    files,
    output_type,
    own_fields,
    with_core_keys,
)

#: Events of one input.
_MAX_EVENTS = 4

_SECRET = "comfyui-secret-key"
_ITEM = {"filename": "a_00001_.png", "subfolder": "", "type": "output"}
_DETAIL = {
    "id": "cloud-id",
    "status": "completed",
    "create_time": 1_700_000_000_000,
    "execution_start_time": 1_700_000_001,
    "execution_end_time": 1_700_000_002_000,
    "outputs": {"2": {"images": [_ITEM], "video": [_ITEM], "text": ["a"], "animated": [False]}},
    "outputs_count": 1,
    "execution_status": {"messages": [["execution_start", {"timestamp": 1}]], "completed": True},
    "execution_meta": {"2": {"node_id": "2", "display_node": "2", "parent_node": None}},
    "queue_reason": "concurrency_limit",
    "deployment": {"name": "a"},
}
_FAILED = {
    **_DETAIL,
    "status": "failed",
    "error_message": '{"exception_message": "no", "node_id": "1", "traceback": ["a"]}',
    "execution_error": {"exception_type": "E", "current_inputs": {"a": 1}, "executed": ["1"]},
}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _in_fours() -> Iterator[list[Any]]:
    """Yield the recorded events, a few each."""
    found = list(seeds.events())
    return (found[place : place + _MAX_EVENTS] for place in range(0, len(found), _MAX_EVENTS))


@of_json(parse=codec.loads_text, seeds=_in_fours)
def cloud_events(value: Any) -> None:
    """Follow a job by some events, and end it.

    As a local ComfyUI does, each message repeats the states of all nodes, so that many events in
    one input take time that grows with the square of their number.
    """
    tracker = Tracker("local-id", plain(), ["2"])
    for event in value[:_MAX_EVENTS] if isinstance(value, list) else [value]:
        type_, data = _object(event).get("type"), _object(_object(event).get("data"))
        if isinstance(type_, str):
            events.unlisted(type_, data)
            events.concerns_a_job(type_, data)
            _sent(tracker.receive(EventReceived(type_, data), 5_000))
    _sent(tracker.receive(SnapshotReceived(snapshots.from_job(dict(_DETAIL))), 6_000))
    assert tracker.ended


@of_json(KeyError, parse=codec.loads_text, seeds=lambda: [_DETAIL, _FAILED])
def snapshot(value: Any) -> None:
    """End a job by its detail alone."""
    found = snapshots.from_job(_object(value))
    found.message("execution_start")
    tracker = Tracker("local-id", plain(), ["2"])
    _sent(tracker.receive(SnapshotReceived(found), 6_000))
    _sent(tracker.receive(GiveUp("nothing more", lost=True), 7_000))
    assert tracker.ended


def _sent(commands: list[Any]) -> None:
    """Write the messages as they go to clients."""
    for command in commands:
        if isinstance(command, events.Event):
            assert command.text


@of_json(parse=codec.loads_text, seeds=lambda: [_DETAIL["outputs"], *seeds.entries()])
def outputs_of_a_job(value: Any) -> None:
    """Read files, texts and previews from outputs."""
    found = _object(value)
    outputs.summary(outputs.normalized(found))
    for output in found.values():
        if isinstance(output, dict):
            events.names_file(output)
            shaped = with_core_keys(output)
            items = list(files(shaped))
            given = [GivenName(item.key, 0, item.cloud_name, "output", "a") for item in items]
            matching_names(items, given[::-1])
            for item in items:
                own_fields(item.item)
                output_type(item.item, None)
                extension(item.cloud_name, item.key, None)


@of_json(
    parse=codec.loads_text,
    seeds=lambda: [
        {"error": {"type": "a", "message": "b", "details": "c", "extra_info": {}}},
        {"code": "RATE_LIMITED", "message": "wait"},
        {"node_errors": {"1": {"errors": [{"type": "a"}], "dependent_outputs": ["2"]}}},
    ],
)
def refusal_of_the_cloud(value: Any) -> None:
    """Make a client's error of the cloud's."""
    for status in (400, 402, 429, 503):
        refused = errors.from_cloud(status, value)
        codec.dump_bytes([refused.body(), errors.failure_of(refused)])
        errors.unlisted(status, value)
        str(refusal("call", status, value, None))


@of_json(
    parse=codec.loads_text,
    seeds=lambda: [
        {
            "max_concurrent_jobs": 3,
            "subscription_tier": "PRO",
            "amount_micros": 1,
            "currency": "USD",
        },
        {"id": "1", "name": "a.png", "hash": "blake3:00", "tags": ["input"], "size": 1},
    ],
)
def account_of_the_cloud(value: Any) -> None:
    """Read plans and records of files."""
    answer = _object(value)
    plans.plan_of(value, value, value)
    of_cloud(answer)


@of_bytes(
    CloudError,
    seeds=lambda: (codec.dump_bytes(value) for value in (_DETAIL, _FAILED, {"prompt_id": "a"})),
)
def answer_of_the_cloud(data: bytes) -> None:
    """Read the bodies of answers."""
    for read in (
        answers.submission_of,
        answers.detail_of,
        answers.extra_data_of,
        answers.object_bytes,
        answers.uploaded_name,
    ):
        try:
            read(Answer("call", data, "application/json", 1, _SECRET, USUAL))
        except CloudError:
            continue
    page = answers.page_with("jobs", Answer("call", data, "text/plain", 1, _SECRET, USUAL))
    answers.next_page(page, 5)


@of_bytes(seeds=seeds.frames)
def frame(data: bytes) -> None:
    """Read a binary frame."""
    found = parse_frame(without_secret(data, _SECRET) or b"")
    text = getattr(found, "text", None)
    if found is not None and text is not None:
        encode_text(events.NodeText(str(found.node_id), text))


@of_text(seeds=["5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def retry_after_header(text: str) -> None:
    """Read a `Retry-After`."""
    retry_after(text, 1_700_000_000.0)


@of_text(CloudError, seeds=["https://storage.example/a?sig=b%2Fc", "/relative", "http://[::1]/"])
def redirect(text: str) -> None:
    """Read where the cloud redirects a download to."""
    response = SimpleNamespace(
        url=URL("https://cloud.example/api/view"), headers={"Location": text}
    )
    redirect_target(cast(ClientResponse, response))
