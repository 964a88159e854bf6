"""On which topics replicas hear what the engine tells."""

from __future__ import annotations

import pytest
from jobs.samples import job

from proxy.bus import BusMessage, EventBus
from proxy.jobs.bus_listener import BusListener
from proxy.jobs.messages import (
    ClientMessage,
    JobAnswered,
    JobLeft,
    JobMessage,
    JobNews,
    JobsAhead,
    topic_of,
)
from proxy.translate.events import Event, Message, Preview

JOB = job()
EVENT = Event("executing", {"node": "1"})


class NotingBus(EventBus):
    """Notes what is published."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[str, bool]] = []

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        self.published.append((topic, droppable))


def of_job(message: Message) -> JobMessage:
    return JobMessage(JOB.key, 1, "c", True, message)


def preview(*, result: bool) -> Preview:
    return Preview("one", "1", "1", None, "1", b"jpg", "image/jpeg", result=result)


@pytest.mark.parametrize(
    ("news", "topic", "droppable"),
    [
        (JobAnswered(JOB.key), "jobs", False),
        (JobLeft(JOB.key, JOB.order), "jobs", False),
        (JobsAhead("anna", 1), "jobs", False),
        (ClientMessage("anna", "c", EVENT), topic_of("anna", "c"), False),
        (of_job(EVENT), topic_of("anna", "c"), False),
        (of_job(preview(result=True)), topic_of("anna", "c"), False),
        (of_job(preview(result=False)), topic_of("anna", "c"), True),
    ],
)
def test_news_have_their_topics_and_a_preview_may_be_dropped(
    news: JobNews, topic: str, droppable: bool
) -> None:
    bus = NotingBus()
    BusListener(bus).hear(news)
    assert bus.published == [(topic, droppable)]
