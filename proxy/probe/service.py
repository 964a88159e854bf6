"""One probe from its beginning to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from proxy.probe import reading, running, sending
from proxy.probe.points import POINTS, Findings, Level
from proxy.probe.sending import ProbeRun
from proxy.probe.wire import Wire

#: Seconds for all observations: what takes longer is not seen.
DEADLINE = 150.0

#: Seconds to remove what the probe has made, when all is observed or time is up.
CLEAN_UP = 25.0

#: What the level `run` does, and what it costs, for the person who is asked.
CONSENT = (
    "It uploads a picture, sounds and a text of a few kilobytes, submits about fifteen workflows "
    "that need no model (some seconds of machine time, usually less than one credit), cancels "
    "running ones, interrupts one if nobody else has jobs, deletes its jobs with their files, and "
    "sends 60 reads at the end. The uploads stay in the account's inputs."
)


async def probe(base_url: URL, key: str, level: Level, *, idle: float) -> Findings:
    """Observe every point of the level, as far as the cloud lets it be seen, and a socket without
    traffic for `idle` seconds. Never raises for what the cloud does: a step that fails leaves its
    points unseen."""
    findings = Findings(level)
    async with Wire(base_url, key) as wire:
        try:
            async with asyncio.timeout(DEADLINE):
                await _observe(wire, findings, level, idle)
        except TimeoutError:
            _unseen(findings, f"The probe ended after {DEADLINE:g} seconds.")
        findings.see("rate_limit_headers", ", ".join(sorted(wire.limits)) or "none")
    _unseen(findings, "Nothing was seen of it.")
    return findings


async def _observe(wire: Wire, findings: Findings, level: Level, idle: float) -> None:
    classes: dict[str, Any] = {}

    async def catalog() -> None:
        classes.update(await reading.catalog(wire, findings))

    for step in (
        lambda: reading.account(wire, findings),
        catalog,
        lambda: reading.templates(wire, findings),
        lambda: reading.routes(wire, findings),
        lambda: reading.sockets(wire, findings),
    ):
        await _step(findings, step)
    usable = findings.value("user") == "200" and findings.value("socket_token") == "open"
    if level == "run" and usable:
        await _step(findings, lambda: _run(wire, findings, classes))
        await _step(findings, lambda: running.idle(wire, findings, idle))
        await _step(findings, lambda: running.burst(wire, findings))


async def _run(wire: Wire, findings: Findings, classes: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        announced = await wire.socket()
        stack.push_async_callback(announced.close)
        silent = await wire.socket()
        stack.push_async_callback(silent.close)
        run = ProbeRun(wire, findings, classes, announced, silent)
        stack.push_async_callback(_step, findings, lambda: _clean_up(run))
        await announced.announce()
        await announced.quiet(0.3, 2.0)
        for step in (
            sending.uploads,
            running.main,
            running.refusals,
            running.annotated,
            running.failure,
            running.cancels,
            running.interrupts,
            running.v2,
            running.userdata,
        ):
            await _step(findings, partial(step, run))


async def _clean_up(run: ProbeRun) -> None:
    async with asyncio.timeout(CLEAN_UP):
        await running.clean_up(run)


async def _step(findings: Findings, step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        findings.failures.append(type(error).__name__)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        findings.failures.append(f"an answer of unknown form ({type(error).__name__})")


def _unseen(findings: Findings, why: str) -> None:
    failed = (
        f" Failures: {', '.join(dict.fromkeys(findings.failures))}." if findings.failures else ""
    )
    seen = findings.observed
    findings.miss((point.id for point in POINTS if point.id not in seen), f"{why}{failed}")
