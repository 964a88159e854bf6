"""The messages of an ended job, from its entry of the history."""

from __future__ import annotations

from msgspec.structs import replace

from proxy.engine.replay import life_of
from proxy.storage.job_tables import HistoryEntry
from proxy.translate import codec
from proxy.translate.events import Event

OUTPUT = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}


def entry(state: str, end: str, outputs: dict[str, object]) -> HistoryEntry:
    messages = [
        ["execution_start", {"prompt_id": "one", "timestamp": 5}],
        ["execution_cached", {"prompt_id": "one", "nodes": [], "timestamp": 5}],
        [end, {"prompt_id": "one", "node_id": "9", "timestamp": 9}],
    ]
    status = {"status_str": "x", "completed": state == "succeeded", "messages": messages}
    return HistoryEntry(
        member="anna",
        prompt_id="one",
        created_at=4,
        sequence=1,
        ordinal=1,
        number=0,
        graph=codec.dump_bytes({"9": {"class_type": "SaveImage", "inputs": {}}}),
        extra_data=b"{}",
        outputs_to_execute=("9",),
        state=state,
        started_at=5,
        ended_at=9,
        order=1,
        summary=b"{}",
        result=codec.dump_bytes({"outputs": outputs, "status": status, "meta": {}}),
    )


def types_of(entry: HistoryEntry) -> list[str]:
    return [message.type for message in life_of(entry) if isinstance(message, Event)]


def test_a_success_has_its_outputs_before_its_end() -> None:
    messages = types_of(entry("succeeded", "execution_success", {"9": OUTPUT}))
    assert messages[:2] == ["execution_start", "execution_cached"]
    assert messages.index("executed") < messages.index("execution_success")
    assert messages[-2:] == ["execution_success", "executing"]


def test_all_messages_have_the_metadata_of_the_job() -> None:
    named = replace(entry("succeeded", "execution_success", {"9": OUTPUT}), workflow_id="mine")
    messages = [message for message in life_of(named) if isinstance(message, Event)]
    assert {message.data["workflow_id"] for message in messages} == {"mine"}
    assert messages[-1].data["node"] is None


def test_a_cancelled_job_ends_as_interrupted() -> None:
    messages = types_of(entry("cancelled", "execution_interrupted", {}))
    assert messages[-2:] == ["execution_interrupted", "executing"]
