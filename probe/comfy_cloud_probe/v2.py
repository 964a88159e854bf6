"""What API v2 leaves open, on Comfy Cloud and on a deployment.

The same steps run on both: what they observe is named after the surface, `v2_…` or `deployment_…`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_cloud_probe import v2_files, v2_jobs, v2_streams
from comfy_cloud_probe.pick import NONE
from comfy_cloud_probe.points import Findings, SurfaceName, v2_points
from comfy_cloud_probe.surface import V2Surface
from comfy_cloud_probe.wire import JOB, ProbeRun, Wire, attempt

#: Seconds until a job of a deployment must have ended: a first worker may take minutes to start.
DEPLOYMENT_JOB = 240.0


def no_surface(findings: Findings, name: SurfaceName) -> None:
    """Record that there is no such surface."""
    for point in v2_points(name):
        findings.see(f"{name}_{point}", NONE)


async def cloud(run: ProbeRun) -> None:
    """Observe Comfy Cloud; its jobs are among those of the run, which are removed."""
    before = len(run.jobs)
    surface = V2Surface(run.wire, run.findings, "v2", run.classes, run.jobs, JOB)
    await observe(surface)
    listed = (await run.wire.call("GET", "api/jobs", query={"limit": "100"})).dict().get("jobs")
    ids = {job.get("id") for job in listed if isinstance(job, dict)} if listed else set()
    known = not ids.isdisjoint(run.jobs[before:])
    run.findings.see("v2_in_v1_list", "yes" if known else "no")


async def deployment(wire: Wire, findings: Findings, classes: Mapping[str, Any]) -> None:
    """Observe a deployment with these node classes, as far as they are known."""
    surface = V2Surface(wire, findings, "deployment", classes, [], DEPLOYMENT_JOB)
    await observe(surface)


async def observe(surface: V2Surface) -> None:
    """Observe one surface: its jobs, their outputs, ends and streams, its refusals and files."""
    ids: dict[str, str | None] = {"picture": None, "upload": None}

    async def whole() -> None:
        ids["picture"] = await v2_jobs.whole(surface)

    async def uploads() -> None:
        ids["upload"] = await v2_files.uploads(surface)

    sizes = (11, 60, 150) if surface.name == "deployment" else (11,)
    try:
        for call in (
            whole,
            lambda: v2_jobs.refusals(surface),
            lambda: v2_jobs.failure(surface),
            lambda: v2_jobs.cancels(surface),
            uploads,
            lambda: v2_files.references(surface, ids["upload"], ids["picture"]),
            lambda: v2_files.content(surface, ids["picture"] or ids["upload"]),
            lambda: v2_streams.limits(surface),
            lambda: v2_files.sizes(surface, *sizes),
        ):
            await attempt(surface.findings, call())
    finally:
        await attempt(surface.findings, surface.close())
    surface.miss("The surface did not come to it.", *v2_points(surface.name))
