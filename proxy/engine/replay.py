"""The messages of a job that has ended, once more, for clients that have missed them."""

from __future__ import annotations

from proxy.engine.tracker import Ended, EventReceived, SnapshotReceived, Tracker
from proxy.jobs.models import OUTCOMES
from proxy.storage.job_tables import HistoryEntry
from proxy.translate import codec, workflow_metadata
from proxy.translate.events import Message, with_metadata
from proxy.translate.snapshots import Snapshot


def life_of(entry: HistoryEntry) -> list[Message]:
    """Return the messages of an ended job, as its entry of the history has them."""
    result = codec.loads(entry.result)
    metadata = workflow_metadata.of_job(codec.loads(entry.extra_data), entry.workflow_id)
    tracker, commands = Tracker(entry.prompt_id, codec.loads(entry.graph)), []
    for type_, data in result["status"]["messages"]:
        commands += tracker.receive(EventReceived(type_, data), entry.started_at)
    snapshot = Snapshot(
        entry.prompt_id,
        OUTCOMES[entry.state],
        settled=True,
        start_time=entry.started_at,
        end_time=entry.ended_at,
        outputs=result["outputs"],
        execution_status=result["status"],
        meta=result["meta"],
    )
    commands += tracker.receive(SnapshotReceived(snapshot), entry.ended_at)
    messages: list[Message] = []
    for command in commands:
        if isinstance(command, Ended):
            messages += command.result, command.last
        elif isinstance(command, Message):
            messages.append(command)
    return [with_metadata(message, metadata) if metadata else message for message in messages]
