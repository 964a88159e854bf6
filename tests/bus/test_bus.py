"""Messages as bytes, and what the bus of one process adds to what every bus keeps to."""

from __future__ import annotations

import asyncio
from typing import Self

import msgspec
import pytest
from bus.peers import News
from hypothesis import given
from hypothesis import strategies as st

from proxy.bus import BusMessage, EventBus, decode, encode


class Counted(BusMessage, frozen=True):
    """A message whose form on the wire is another one."""

    number: int | str

    def to_wire(self) -> Self:
        """With the number as a text, which has any size."""
        return msgspec.structs.replace(self, number=str(self.number))

    def from_wire(self) -> Self:
        """With the number."""
        return msgspec.structs.replace(self, number=int(self.number))


@given(st.integers(-(2**63), 2**63 - 1), st.binary())
def test_what_is_encoded_is_decoded_as_its_own_kind(number: int, image: bytes) -> None:
    news = decode(encode(News(number, image)))
    assert news == News(number, image)
    assert type(news) is News


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udcff\ud800"])
def test_a_lone_surrogate_loses_no_message(text: str) -> None:
    plain = text.encode(errors="replace").decode()
    assert decode(encode(News(1, b"\xff", text))) == News(1, b"\xff", plain)


@given(st.integers(max_value=-(2**63) - 1) | st.integers(min_value=2**64))
def test_a_number_that_does_not_fit_loses_no_message(number: int) -> None:
    nearest = -(2**63) if number < 0 else 2**64 - 1
    assert decode(encode(News(number))) == News(nearest)


@given(st.integers())
def test_a_message_that_has_a_form_for_the_wire_comes_out_of_it(number: int) -> None:
    assert decode(encode(Counted(number))) == Counted(number)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode(News(1))[:-1],
        msgspec.msgpack.encode({"type": "NoSuchNews", "number": 1}),
        msgspec.msgpack.encode({"type": "News", "number": "one"}),
        msgspec.msgpack.encode(["News"]),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_a_message_is_changed_by_nobody() -> None:
    news = News(1)
    with pytest.raises(AttributeError):
        news.number = 2  # type: ignore[misc]


async def test_a_handler_has_run_when_publish_returns() -> None:
    received: list[News] = []
    bus = EventBus()
    bus.subscribe("a", received.append)
    news = News(1)
    bus.publish("a", news)
    assert received[0] is news


async def test_what_a_handler_publishes_comes_behind_for_everybody() -> None:
    received: list[int] = []
    bus = EventBus()

    def answer(news: News) -> None:
        if news.number == 1:
            bus.publish("a", News(2))

    bus.subscribe("a", answer)
    bus.subscribe("a", lambda news: received.append(news.number))
    bus.publish("a", News(1))
    assert received == [1, 2]


async def test_a_handler_that_is_cancelled_does_not_stop_the_bus() -> None:
    received: list[int] = []
    bus = EventBus()

    def cancelled(news: News) -> None:
        if news.number == 1:
            bus.publish("a", News(2))
            raise asyncio.CancelledError

    bus.subscribe("a", lambda news: received.append(news.number))
    bus.subscribe("a", cancelled)
    with pytest.raises(asyncio.CancelledError):
        bus.publish("a", News(1))
    bus.publish("a", News(3))
    assert received == [1, 2, 3]


async def test_a_handler_that_leaves_during_a_message_hears_no_more() -> None:
    received: list[News] = []
    bus = EventBus()
    bus.subscribe("a", lambda _: second.close())
    second = bus.subscribe("a", received.append)
    bus.publish("a", News(1))
    assert received == []
