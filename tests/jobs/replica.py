"""The api's half of a replica over a database into which an engine elsewhere writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from jobs.samples import MEMBER

from proxy.bus import BusMessage, EventBus, decode, encode
from proxy.clock import now
from proxy.engine.live_job import LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.jobs.conversion import payload_of, stored_of
from proxy.jobs.message_order import step_of
from proxy.jobs.messages import JobMessage, topic_of
from proxy.jobs.models import JobContent, JobEnd, JobState, Wish
from proxy.jobs.replica_feed import ReplicaFeed
from proxy.jobs.replica_jobs import ReplicaJobs
from proxy.jobs.subscribers import Subscribers
from proxy.storage.jobs import JobRepository
from proxy.translate.events import Event, Message

CLIENT, OUTPUT = "c", {"images": [{"filename": "a.png"}]}


class Listener:
    """A client's socket: the types of what it heard, with the node of `executed`."""

    asks_for_previews = False

    def __init__(self) -> None:
        self.received: list[str] = []
        self.ids: set[str] = set()

    def send(self, message: Message, *, for_all: bool) -> None:
        assert isinstance(message, Event)
        if message.type not in ("status", "progress_state"):
            self.ids.add(message.data["prompt_id"])
            node = message.data.get("node") if message.type in ("executing", "executed") else ""
            self.received.append(f"{message.type} {node}".strip())

    def superseded(self) -> None:
        raise AssertionError


class LosingBus(EventBus):
    """A bus that can be away, and whose messages are as they come from another replica."""

    away = False

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        super().publish(topic, decode(encode(message)), droppable=droppable)

    @property
    def connected(self) -> bool:
        return not self.away


@dataclass
class Replica:
    """An api half over a database into which an engine elsewhere writes."""

    bus: LosingBus
    repository: JobRepository
    recorder: JobRecorder
    live: ReplicaJobs
    subscribers: Subscribers
    feed: ReplicaFeed
    numbers: Counter[int] = field(default_factory=Counter)

    async def insert(self, prompt_id: str = "p", **fields: Any) -> LiveJob:
        graph = {"9": {"class_type": "SaveImage", "inputs": {}}}
        values: dict[str, Any] = {"accepted": True, "state": JobState.QUEUED, **fields}
        content = JobContent(graph, {"client_id": CLIENT})
        unwanted = values.pop("cancel_requested", False)
        job = LiveJob(prompt_id, MEMBER, 0, content, CLIENT, now(), **values)
        job.wish = Wish.CANCEL if unwanted else Wish.NONE
        job.order = (await self.repository.insert(stored_of(job), payload_of(job.loaded))).order
        return job

    async def end(self, job: LiveJob) -> None:
        at = now()
        start = ["execution_start", {"prompt_id": job.prompt_id, "timestamp": at}]
        cached = ["execution_cached", {"prompt_id": job.prompt_id, "nodes": [], "timestamp": at}]
        success = ["execution_success", {"prompt_id": job.prompt_id, "timestamp": at}]
        messages = [start, cached, success]
        status = {"status_str": "success", "completed": True, "messages": messages}
        await self.recorder.end(job, JobEnd("completed", {"9": OUTPUT}, status, {}, at, at))

    def tell(self, job: LiveJob, type_: str, *, lost: bool = False, **data: Any) -> None:
        """What an engine sends, on a bus that may lose it."""
        message = Event(type_, {"prompt_id": job.prompt_id, **data})
        step = step_of(message)
        self.numbers[job.order] += step is not None
        number = self.numbers[job.order]
        sent = JobMessage(job.key, job.order, CLIENT, True, message, 1, number, step)
        if not lost:
            self.bus.publish(topic_of(MEMBER, CLIENT), sent)

    async def listen(self) -> Listener:
        listener = Listener()
        opened = await self.feed.moment(MEMBER)
        self.feed.attach(MEMBER, CLIENT, listener, lambda: None, hears_all=False, opened=opened)
        return listener
