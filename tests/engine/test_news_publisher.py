"""What the engine publishes, and for how long."""

from __future__ import annotations

import pytest
from engine.worlds import World

from proxy.bus import EventBus
from proxy.engine.news_publisher import NewsPublisher
from proxy.jobs.messages import JobNews, JobsAhead


@pytest.mark.parametrize(("lossy", "timeout"), [(False, 5.0), (True, 2.0)])
def test_messages_flow_sooner_where_the_answer_may_get_lost(
    monkeypatch: pytest.MonkeyPatch, lossy: bool, timeout: float
) -> None:
    monkeypatch.setattr(EventBus, "lossy", lossy)
    assert World().announcer.publisher.answer_timeout == timeout


def test_nothing_is_published_after_the_term() -> None:
    world = World()
    news = JobsAhead("anna", 1)
    for _ in range(2):
        world.announcer.publisher.publish(news)
        world.term.end()
    assert world.received == [news]


def test_a_listener_that_fails_harms_no_job() -> None:
    class Failing:
        def hear(self, news: JobNews) -> None:
            raise ValueError(news)

    world = World()
    NewsPublisher(world.bus, world.term, Failing()).publish(JobsAhead("anna", 1))
