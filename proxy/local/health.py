"""`/healthz` and `/readyz`: for whoever watches over the process. ComfyUI has neither."""

from __future__ import annotations

from aiohttp import web

from proxy.local import answers
from proxy.local.services import of


async def get_health(_: web.Request) -> web.Response:
    """Whether the process answers: `{"status": "ok"}`. Asks nobody else."""
    return answers.json({"status": "ok"})


async def get_readiness(request: web.Request) -> web.Response:
    """Whether jobs can be taken.

    200 `{"status": "ready", "checks": {"store": "ok", "key": "ok", "socket": "ok"}}`, or 503 with
    the status `not ready`, a sentence in place of each `ok` that is none, and the first of these
    sentences as `reason`. The answer is at most a few seconds old.
    """
    found = await of(request).checks()
    checks = {name: problem or "ok" for name, problem in found.items()}
    problems = [problem for problem in found.values() if problem]
    if problems:
        return answers.json({"status": "not ready", "reason": problems[0], "checks": checks}, 503)
    return answers.json({"status": "ready", "checks": checks})
