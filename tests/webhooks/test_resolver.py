"""Names are looked up in threads of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest
from aiohttp.abc import ResolveResult

from proxy.webhooks import resolver as module
from proxy.webhooks.resolver import OWNER, OwnThreadsResolver


async def test_a_name_has_its_addresses() -> None:
    resolver = OwnThreadsResolver()
    found = await resolver.resolve("localhost", 80)
    assert "127.0.0.1" in {address["host"] for address in found}
    assert {address["port"] for address in found} == {80}
    await resolver.close()


async def test_an_unknown_name_has_none() -> None:
    resolver = OwnThreadsResolver()
    with pytest.raises(OSError, match=r"."):
        await resolver.resolve("nobody.invalid", 80)
    await resolver.close()


async def test_name_servers_that_hang_hold_no_thread_of_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def hang(*_: object) -> list[object]:
        answered.wait(30)
        return []

    monkeypatch.setattr(module, "_look_up", hang)
    resolver = OwnThreadsResolver()
    asked = [asyncio.create_task(resolver.resolve("slow.test")) for _ in range(64)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(lambda: "read") == "read"
    answered.set()
    await asyncio.gather(*asked)
    await resolver.close()


async def test_name_servers_that_hang_do_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, answered = threading.Event(), threading.Event()
    was_answered: list[bool] = []

    def hang(*_: object) -> list[object]:
        began.set()
        was_answered.append(answered.wait(5))
        return []

    monkeypatch.setattr(module, "_look_up", hang)
    resolver = OwnThreadsResolver()
    asked = asyncio.create_task(resolver.resolve("slow.test"))
    assert await asyncio.to_thread(began.wait, 5)
    await resolver.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await resolver.resolve("late.test")
    answered.set()
    await asked
    assert was_answered == [True]


async def test_names_of_one_owner_that_hang_leave_threads_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def look_up(host: str, *_: object) -> list[object]:
        if host == "slow.test":
            answered.wait(30)
        return []

    async def resolve(owner: str, host: str) -> list[ResolveResult]:
        OWNER.set(owner)
        return await resolver.resolve(host)

    monkeypatch.setattr(module, "_look_up", look_up)
    resolver = OwnThreadsResolver()
    hanging = [asyncio.create_task(resolve("eve", "slow.test")) for _ in range(64)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await asyncio.create_task(resolve("bob", "fast.test")) == []
    answered.set()
    await asyncio.gather(*hanging)
    await resolver.close()
