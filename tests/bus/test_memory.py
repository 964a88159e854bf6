"""What the bus in memory adds to what every bus keeps to."""

from __future__ import annotations

from bus.peers import News

from proxy.bus.memory import MemoryBus


async def test_a_handler_has_heard_when_publish_returns() -> None:
    heard: list[News] = []
    bus = MemoryBus()
    bus.subscribe("a", heard.append)
    news = News(1)
    bus.publish("a", news)
    assert heard[0] is news


async def test_what_a_handler_publishes_comes_behind_for_everybody() -> None:
    heard: list[int] = []
    bus = MemoryBus()

    def answer(news: News) -> None:
        if news.number == 1:
            bus.publish("a", News(2))

    bus.subscribe("a", answer)
    bus.subscribe("a", lambda news: heard.append(news.number))
    bus.publish("a", News(1))
    assert heard == [1, 2]


async def test_a_handler_that_leaves_during_a_message_hears_no_more() -> None:
    heard: list[News] = []
    bus = MemoryBus()
    bus.subscribe("a", lambda _: second.close())
    second = bus.subscribe("a", heard.append)
    bus.publish("a", News(1))
    assert heard == []
