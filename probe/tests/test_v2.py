"""What the probe observes of API v2: of a deployment, of a pick, and without a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from comfy_cloud_probe import Target, probe, v2_files, v2_jobs, v2_streams
from comfy_cloud_probe.pick import NONE
from comfy_cloud_probe.pick import observe as observe_pick
from comfy_cloud_probe.points import Findings, v2_points
from comfy_cloud_probe.surface import V2Surface
from comfy_cloud_probe.v2 import no_surface
from comfy_cloud_probe.wire import ProbeRun, Wire

from proxy.simulator import Simulator, Switches
from proxy.simulator.deployment import DeploymentSwitches, SimulatedDeployment
from proxy.translate import codec


@asynccontextmanager
async def running(**switches: Any) -> AsyncIterator[SimulatedDeployment]:
    chosen = DeploymentSwitches(**{"pace": 0.02, **switches})
    async with SimulatedDeployment(switches=chosen) as deployment:
        yield deployment


def target(deployment: SimulatedDeployment) -> Target:
    classes = codec.loads(deployment.object_info)
    return Target(deployment.base_url, deployment.key, classes)


def values(findings: Findings) -> dict[str, str | None]:
    return {name: findings.value(f"deployment_{name}") for name in v2_points("deployment")}


#: What the simulated deployment is like by default.
USUAL = {
    "accepts": "accepted",
    "states": "running, then succeeded",
    "polled_progress": "an object",
    "stream": "output, preview, progress, status",
    "stream_progress": "current_node, current_node_class, nodes_done, nodes_total, value",
    "stream_order": "before the end",
    "stream_end": "at once",
    "end": "succeeded",
    "times": "started_at, completed_at, metrics",
    "retention": "24 h",
    "outputs": "1 x PreviewAny text text/plain, 2 x PreviewImage image image/png, "
    "5 x SaveImage image image/png, 1 x SaveVideo video video/mp4",
    "output_names": "ComfyUI_temp_*_#_.png, probe-list_#_.png, probe_#_.mp4, probe_#_.png, "
    "text.txt",
    "output_order": "by name",
    "equal_pictures": "2 entries, 2 ids, 1 hashes",
    "unknown_class": "201",
    "wrong_value": "201",
    "invalid": "201",
    "half_valid": "201",
    "details": "none",
    "failure": "code, message, node_id",
    "failure_charged": "a worker ran",
    "unknown_fields": "201",
    "extra_pnginfo": "400 invalid_request",
    "exception": "code, message, node_id, class_type, traceback",
    "labels": "201",
    "list": "200",
    "list_by_label": "the job",
    "cancel": "canceling, then canceled, no error",
    "cancel_running": "canceling, then canceled, no error",
    "upload": "201",
    "upload_retention": "never",
    "same_bytes": "200, another id, its own name",
    "from_hash": "201",
    "expires_in": "1 h",
    "upload_folder": "422 validation_error",
    "upload_spaces": "201",
    "upload_letters": "201",
    "any_input": "succeeded",
    "output_as_input": "succeeded",
    "content": "302 to another host",
    "signed_url_life": "not told",
    "storage_headers": "206: accept-ranges, cache-control, content-type, etag",
    "streams": "12 open",
    "reads": "answered",
    "upload_11_mb": "201",
    "upload_60_mb": "201",
    "upload_150_mb": "201",
    "delete": "204, then 404 asset_not_found",
}


async def test_a_deployment_alone_is_observed_and_keeps_no_job_and_no_upload() -> None:
    async with running() as deployment:
        findings = await probe(None, "run", idle=0.0, deployment=target(deployment))
        assert all(job.ended for job in deployment.jobs.values())
        assert all(asset.job_id for asset in deployment.workers.assets.values())
        assert deployment.key not in str(findings.report())
    found = values(findings)
    assert found.pop("traceback") in ("re.error", "re.PatternError")
    assert found == USUAL
    assert {row["id"] for row in findings.rows()} == {
        f"deployment_{name}" for name in v2_points("deployment")
    }
    assert findings.conclusion() == ("works", "The deployment takes jobs.")


STEPS: dict[str, Any] = {
    "whole": v2_jobs.whole,
    "refusals": v2_jobs.refusals,
    "failure": v2_jobs.failure,
    "cancels": v2_jobs.cancels,
    "uploads": v2_files.uploads,
    "limits": v2_streams.limits,
}


@asynccontextmanager
async def surface_of(deployment: SimulatedDeployment) -> AsyncIterator[V2Surface]:
    about = target(deployment)
    async with aiohttp.ClientSession() as session, asyncio.timeout(100):
        wire = Wire(session, about.base_url, about.key)
        yield V2Surface(wire, Findings("run"), "deployment", about.classes, [], 60.0)


async def observed(deployment: SimulatedDeployment, step: str) -> dict[str, str | None]:
    async with surface_of(deployment) as surface:
        await STEPS[step](surface)
    return values(surface.findings)


@pytest.mark.parametrize(
    ("step", "switches", "point", "seen"),
    [
        ("whole", {"state": "stopped"}, "accepts", "422 deployment_stopped"),
        ("whole", {"state": "starting"}, "accepts", "429 deployment_not_ready with Retry-After"),
        ("whole", {"credits": False}, "accepts", "402 insufficient_credits"),
        ("whole", {"polled_progress": False}, "polled_progress", "null"),
        ("whole", {"streaming": False}, "stream", "501"),
        ("whole", {"outputs_late": True}, "stream_order", "after the end"),
        ("whole", {"streams_hang": True, "keepalive": 2.5}, "stream_end", "within 20 s"),
        ("whole", {"job_life": 7200.0}, "retention", "2 h"),
        ("refusals", {"checks": "documented"}, "unknown_class", "422 invalid_workflow"),
        ("refusals", {"checks": "documented"}, "details", "node_errors of fields and reasons"),
        ("refusals", {"checks": "comfyui"}, "details", "node_errors as ComfyUI's"),
        ("refusals", {"checks": "comfyui"}, "half_valid", "201"),
        ("refusals", {"closed_extra_data": False}, "extra_pnginfo", "201"),
        ("failure", {"tracebacks": False}, "traceback", "none"),
        ("cancels", {"labels": False}, "labels", "422 metadata_not_supported"),
        ("cancels", {"lists": False}, "list", "403 public_deployment_no_list"),
        ("cancels", {"filters": False}, "list_by_label", "the job"),
        ("uploads", {"input_life": 86_400.0}, "upload_retention", "24 h"),
        ("uploads", {"one_record": True}, "same_bytes", "200, the same id, the first name"),
        ("uploads", {"expires_in": False}, "expires_in", "never"),
        ("limits", {"streams": 8}, "streams", "8 open, then 429, with Retry-After"),
        ("limits", {"read_limit": 30}, "reads", "429 rate_limited with Retry-After"),
    ],
)
async def test_what_no_document_says_is_told_in_each_of_its_forms(
    step: str, switches: dict[str, Any], point: str, seen: str
) -> None:
    async with running(**switches) as deployment:
        found = await observed(deployment, step)
    assert found[point] == seen


def first_worker(deployment: SimulatedDeployment) -> None:
    deployment.switches.workers = 1
    deployment.workers.fill()


async def test_a_job_that_is_cancelled_before_it_runs_ends_at_once() -> None:
    async with running(workers=0) as deployment:
        observing = asyncio.create_task(observed(deployment, "cancels"))
        await deployment.wait_for("canceled")
        first_worker(deployment)
        found = await observing
    assert found["cancel"] == "canceled, then canceled, no error"


async def test_a_cold_start_shows_the_place_in_the_queue() -> None:
    async with running(workers=0) as deployment:
        observing = asyncio.create_task(observed(deployment, "whole"))
        await deployment.signal.until(lambda: deployment.calls["GET /api/v2/jobs/{id}"] > 0)
        first_worker(deployment)
        found = await observing
    assert str(found["states"]).startswith("queued at 1, then ")


async def test_outputs_without_a_node_are_told() -> None:
    async with running(names_nodes=False) as deployment:
        found = await observed(deployment, "whole")
    assert "no node" in str(found["outputs"])


async def test_an_output_that_cannot_be_an_input_is_told() -> None:
    async with running(outputs_as_inputs=False) as deployment, surface_of(deployment) as surface:
        picture = await v2_jobs.whole(surface)
        await v2_files.references(surface, None, picture)
    assert values(surface.findings)["output_as_input"] == "422 missing_asset"


async def test_behind_a_size_that_is_refused_no_larger_one_is_tried() -> None:
    async with running(upload_limit=20_000_000) as deployment, surface_of(deployment) as surface:
        await v2_files.sizes(surface, 11, 60, 150)
    found = values(surface.findings)
    sizes = [found[f"upload_{size}_mb"] for size in (11, 60, 150)]
    assert sizes == ["201", "413", "not tried"]


async def test_a_server_that_repeats_the_key_brings_it_into_no_report() -> None:
    key = "comfyui-key-that-is-repeated"

    async def repeat(request: web.Request) -> web.Response:
        status = 201 if request.method == "POST" else 200
        error = {"code": key, "message": key, "traceback": f"{key}: x"}
        told = {"id": "a", "status": key, "outputs": [{"node_id": "2", "name": key, "type": key}]}
        return web.json_response({**told, "error": error, "file_path": key}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", repeat)
    async with TestServer(app) as server:
        about = Target(server.make_url("/"), key)
        findings = await probe(None, "run", idle=0.0, deployment=about)
    assert findings.value("deployment_end") == "[REDACTED]"
    assert key not in str(findings.report())


# --- the pick of a deployment by a key of Comfy Cloud -----------------------------------------


@pytest.mark.parametrize(
    ("pick", "seen"),
    [
        ("none", (NONE, NONE, NONE)),
        ("refused", ("403 FORBIDDEN without a cookie", "the same", "no executor, no deployment")),
        ("ignored", ("204 without a cookie", "the same", "no executor, no deployment")),
        ("followed", ("204 with a cookie", "others", "platform_gateway, a deployment")),
    ],
)
async def test_a_pick_tells_whose_classes_and_whose_workers_it_has(
    pick: Any, seen: tuple[str, ...]
) -> None:
    findings = await picked(deployment_pick=pick)
    points = ("deployment_pick", "deployment_classes", "deployment_pick_job")
    assert tuple(map(findings.value, points)) == seen
    assert findings.value("default_deployment") == "no default"


async def test_a_job_on_the_default_deployment_is_told() -> None:
    findings = await picked(deployment_pick="ignored", executors=True)
    assert findings.value("default_deployment") == "followed"


async def picked(**switches: Any) -> Findings:
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        Simulator(switches=Switches(billing_for_keys=True, **switches)) as simulator,
        aiohttp.ClientSession(cookie_jar=jar) as session,
    ):
        wire = Wire(session, simulator.base_url, simulator.key)
        classes = (await wire.call("GET", "api/object_info")).dict()
        announced, silent = await wire.socket(), await wire.socket()
        run = ProbeRun(wire, Findings("run"), classes, announced, silent)
        await observe_pick(run)
        await announced.close()
        await silent.close()
        assert len(jar) == 0
    return run.findings


def test_without_a_deployment_each_point_says_so() -> None:
    findings = Findings("run")
    no_surface(findings, "deployment")
    assert set(values(findings).values()) == {NONE}
