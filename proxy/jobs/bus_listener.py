"""What the engine tells the api's halves of all replicas, over the bus."""

from __future__ import annotations

from proxy.bus import EventBus
from proxy.jobs.messages import ClientMessage, JobMessage, JobNews, topic_of
from proxy.translate.events import is_droppable


class BusListener:
    """Publishes news of jobs to the listeners of all replicas, this one included."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def hear(self, news: JobNews) -> None:
        """Publish news of a job on its topic; a preview may be dropped."""
        if isinstance(news, JobMessage):
            topic = topic_of(news.key.member, news.client_id)
            self._bus.publish(topic, news, droppable=is_droppable(news.message))
        elif isinstance(news, ClientMessage):
            self._bus.publish(topic_of(news.member, news.client_id), news)
        else:
            self._bus.publish("jobs", news)
