"""Wrong tokens: how many, of whom, and in how much memory."""

from __future__ import annotations

from proxy.members import throttle
from proxy.members.throttle import PER_MINUTE, Throttle


def test_after_so_many_a_minute_they_have_to_wait() -> None:
    now = 0.0
    slow = Throttle(lambda: now)
    assert [slow.failed("192.0.2.1") for _ in range(PER_MINUTE)] == [0] * PER_MINUTE
    assert slow.failed("192.0.2.1") == 60 // PER_MINUTE
    assert slow.failed("192.0.2.2") == 0
    now = 60 / PER_MINUTE
    assert slow.failed("192.0.2.1") == 0
    assert slow.failed("192.0.2.1") > 0


def test_a_64_of_ipv6_is_one_address() -> None:
    slow = Throttle(lambda: 0.0)
    for number in range(PER_MINUTE):
        assert slow.failed(f"2001:db8::{number:x}") == 0
    assert slow.failed("2001:db8::ffff:1") > 0
    assert slow.failed("2001:db8:0:1::1") == 0


def test_memory_is_bounded() -> None:
    slow = Throttle(lambda: 0.0)
    for number in range(throttle.REMEMBERED + 100):
        slow.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(slow._buckets) == throttle.REMEMBERED
