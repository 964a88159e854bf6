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
        match news:
            case JobMessage(key=key, client_id=client_id, message=message):
                topic = topic_of(key.member, client_id)
                self._bus.publish(topic, news, droppable=is_droppable(message))
            case ClientMessage(member=member, client_id=client_id):
                self._bus.publish(topic_of(member, client_id), news)
            case _:
                self._bus.publish("jobs", news)
