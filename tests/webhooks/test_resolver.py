"""Names are looked up in threads of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy.webhooks import resolver as module
from proxy.webhooks.resolver import OwnThreadsResolver


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
