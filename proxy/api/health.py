"""`/healthz` and `/readyz`: for whoever watches over the process. ComfyUI has neither."""

from __future__ import annotations

from aiohttp import web

from proxy.api import answers
from proxy.api.services import of


async def get_health(_: web.Request) -> web.Response:
    """Whether the process answers: `{"status": "ok"}`. Asks nobody else."""
    return answers.json({"status": "ok"})


async def get_readiness(request: web.Request) -> web.Response:
    """Whether jobs can be taken.

    200 `{"status": "ready", "checks": {"store": "ok", "key": "ok", "socket": "ok"}}`, or 503 with
    the status `not ready`, a sentence in place of each `ok` that is none, and the first of these
    sentences as `reason`. With several accounts there is `accounts` in place of `key` and
    `socket`, an object that has both for each account; one account that can be used is enough.
    What the answer says is a few seconds old at most, unless the cloud is slow to answer.
    """
    report = await of(request).readiness()
    if report.reason is not None:
        body = {"status": "not ready", "reason": report.reason, "checks": report.checks}
        return answers.json(body, 503)
    return answers.json({"status": "ready", "checks": report.checks})
