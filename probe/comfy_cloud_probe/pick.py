"""Whether a key may pick a deployment of its workspace in v1, and what it sees and runs then.

The pick is a cookie, which is dropped again: nothing is changed for anybody else.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from comfy_cloud_probe import workflows
from comfy_cloud_probe.wire import JOB, ProbeRun
from proxy.translate.reading import objects_of

#: What is observed where the workspace, or the account, has no deployment.
NONE = "no deployment"

_POINTS = ("deployment_pick", "deployment_classes", "deployment_pick_job")
#: Jobs that have ended.
_ENDED = ("completed", "failed", "cancelled")


async def observe(run: ProbeRun) -> None:
    """Observe the workspace's default deployment, and a pick of its first one."""
    workspace = (await run.wire.call("GET", "api/workspaces/current")).dict().get("id")
    listed: dict[str, Any] = {}
    if isinstance(workspace, str):
        path = f"api/workspaces/{quote(workspace, safe='')}/deployments"
        listed = (await run.wire.call("GET", path)).dict()
    await _default(run, listed)
    ids = [
        item["deployment_id"]
        for item in objects_of(listed.get("items"))
        if isinstance(item.get("deployment_id"), str)
    ]
    if not ids:
        for point in _POINTS:
            run.findings.see(point, NONE)
        return
    await _picked(run, f"api/workspaces/{quote(str(workspace), safe='')}/deployment", ids[0])


async def _default(run: ProbeRun, listed: dict[str, Any]) -> None:
    """Observe whether a job of the key runs on the workspace's default deployment."""
    default = listed.get("default_deployment_id")
    if not isinstance(default, str):
        run.findings.see("default_deployment", "no default")
        return
    detail = await _detail(run)
    run_on = detail.get("deployment")
    followed = isinstance(run_on, dict) and run_on.get("deployment_id") == default
    run.findings.see("default_deployment", "followed" if followed else "not followed")


async def _picked(run: ProbeRun, path: str, deployment: str) -> None:
    wire, findings = run.wire, run.findings
    reply = await wire.call("PUT", path, json={"deployment_id": deployment})
    cookie = "with a cookie" if "Set-Cookie" in reply.headers else "without a cookie"
    findings.see("deployment_pick", f"{reply.outcome()} {cookie}")
    try:
        classes = (await wire.call("GET", "api/object_info")).dict().keys()
        others = len(classes ^ run.classes.keys())
        seen = "others" if others and classes else "the same"
        findings.see("deployment_classes", seen, f"{others}")
        detail = await _detail(run)
        fields = [
            str(detail.get("executor") or "no executor")[:40],
            "a deployment" if detail.get("deployment") else "no deployment",
        ]
        findings.see("deployment_pick_job", ", ".join(fields) if detail else "refused")
    finally:
        wire.session.cookie_jar.clear()


async def _detail(run: ProbeRun) -> dict[str, Any]:
    """Return the detail of a small job at its end, empty if it is refused."""
    job = (await run.submit(workflows.tiny())).job
    if job is None:
        return {}
    await run.reaches(job, _ENDED, JOB)
    return (await run.detail(job)).dict()
