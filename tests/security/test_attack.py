"""The harness itself: it notices what it has to."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from security.attack import STRANGER, Target


async def _stall(target: Target) -> None:
    async with target.attacked_by(STRANGER):
        target.process.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.2)
        target.process.process.send_signal(signal.SIGCONT)


async def _remove_bob(target: Target) -> None:
    async with target.attacked_by(STRANGER):
        await target.request("DELETE", "proxy/api/members/bob", member="ann")
        await asyncio.sleep(0.2)


@pytest.fixture(autouse=True)
def _idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


async def test_a_proxy_that_stalls_fails(target: Target) -> None:
    with pytest.raises(AssertionError, match=r"wait=1\."):
        await _stall(target)


async def test_a_member_who_is_refused_fails(target: Target) -> None:
    with pytest.raises(AssertionError, match="status 401"):
        await _remove_bob(target)
