"""Nodes, models and what else describes the cloud."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from proxy.simulator import blueprint, events, media
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer
from proxy.simulator.errors import not_found
from proxy.simulator.nodes import MODEL_FILES
from proxy.translate import codec

_SUBGRAPH: dict[str, Any] = {
    "source": "templates",
    "name": "Invert Picture (simulator)",
    "info": {"node_pack": "comfyui"},
}
SUBGRAPHS = {"invert_picture_simulator": _SUBGRAPH}

REPLACEMENTS = {
    "ImageScaleOld": [
        {
            "new_node_id": "ImageScale",
            "old_node_id": "ImageScaleOld",
            "old_widget_ids": None,
            "input_mapping": [{"new_id": "image", "old_id": "image"}],
            "output_mapping": [{"new_idx": 0, "old_idx": 0}],
        }
    ]
}


async def object_info(call: Call) -> web.Response:
    """Answer `GET /api/object_info`, with `include_user_models=true` with the account's own
    models."""
    body = call.world.object_info
    if call.request.query.get("include_user_models") == "true":
        body = call.world.object_info_of(call.account)
    if call.picked:
        body = codec.dump_bytes({**codec.loads(body), "OfTheRelease": {"input": {}, "output": []}})
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def model_folders(_call: Call) -> web.Response:
    """Answer `GET /api/experiment/models`: `folders` are names, not paths."""
    return answer([{"name": folder, "folders": [folder]} for folder in MODEL_FILES])


async def models(call: Call) -> web.Response:
    """Answer `GET /api/experiment/models/{folder}`: 404 for an empty folder as for an unknown
    one."""
    files = list(MODEL_FILES.get(call.path("folder"), ()))
    if call.switches.listed_imports:
        files += call.account.imports.get(call.path("folder"), ())
    if not files:
        raise not_found("folder not found or no models in folder")
    return answer([{"name": name, "pathIndex": 0} for name in files])


async def preview(call: Call) -> web.Response:
    """Answer `GET /api/experiment/models/preview/{folder}/{index}/{file}`: WebP, or always 404."""
    files = MODEL_FILES.get(call.path("folder"), [])
    name = call.path("file").removesuffix(".webp")
    if not call.switches.model_previews or call.path("index") != "0" or name not in files:
        raise not_found("model not found or preview not available")
    return web.Response(body=media.swatch(name), content_type="image/webp")


async def template(call: Call) -> web.Response:
    """Answer `GET /templates/{file}`: the list of templates, or a picture of one."""
    name = call.path("file")
    if name == "index.json":
        return answer([{"templates": [{"name": "simulated", "mediaSubtype": "webp"}]}])
    if not call.switches.template_pictures or not name.endswith(".webp"):
        raise not_found("no such file")
    return web.Response(body=media.swatch(name), content_type="image/webp")


async def features(call: Call) -> web.Response:
    """Answer `GET /api/features`; the push on the socket lacks `can_run_partner_nodes`."""
    flags = {**events.features(call.switches), "can_run_partner_nodes": True}
    if call.switches.announced_slots and call.visitor is not None:
        flags["max_concurrent_jobs"] = call.account.slots
    headers = {"Cache-Control": "private, max-age=30", "Vary": "Authorization, Cookie, X-API-Key"}
    return answer(flags, headers=headers)


async def system_stats(_call: Call) -> web.Response:
    """Answer `GET /api/system_stats`: devices have little more than a name and a type."""
    system: dict[str, Any] = {
        "os": "posix",
        "python_version": "3.12.11 (main)",
        "embedded_python": False,
        "comfyui_version": "0.3.64",
        "comfyui_frontend_version": "1.28.7",
        "workflow_templates_version": "0.1.94",
        "cloud_version": "simulator",
        "pytorch_version": "2.8.0+cu128",
        "argv": [],
        "ram_total": 128 * 1024**3,
        "ram_free": 96 * 1024**3,
    }
    return answer({"system": system, "devices": [{"name": "cuda:0 simulator", "type": "cuda"}]})


async def extensions(_call: Call) -> web.Response:
    """Answer `GET /api/extensions`: files that only the cloud serves."""
    return answer(["/extensions/core/cloudBadges.js", "/extensions/core/cloudFeedback.js"])


async def empty(_call: Call) -> web.Response:
    """Answer `GET /api/workflow_templates`."""
    return answer({})


async def node_replacements(_call: Call) -> web.Response:
    """Answer `GET /api/node_replacements`."""
    return answer(REPLACEMENTS)


async def subgraphs(_call: Call) -> web.Response:
    """Answer `GET /api/global_subgraphs`: `data` is there, and empty."""
    return answer({name: {**info, "data": ""} for name, info in SUBGRAPHS.items()})


async def subgraph(call: Call) -> web.Response:
    """Answer `GET /api/global_subgraphs/{id}`."""
    info = SUBGRAPHS.get(call.path("id"))
    if info is None:
        raise not_found("subgraph not found")
    return answer({**info, "data": codec.dumps(blueprint.inverted_picture(info["name"]))})


async def health(call: Call) -> web.Response:
    """Answer `GET /health`."""
    if call.switches.healthy:
        return web.Response(text="OK")
    return web.Response(status=503, text="unhealthy")


async def stub(_call: Call) -> web.Response:
    """Return a route of ComfyUI that the cloud answers with 404 on purpose."""
    raise not_found("not available on Comfy Cloud")


#: The stubs that the cloud's types list; what else it lacks has no route.
STUBS = (
    ("GET", "/api/history"),
    ("GET", "/api/history/{id}"),
    ("GET", "/api/object_info/{name}"),
    ("GET", "/api/models"),
    ("GET", "/api/models/{folder}"),
    ("GET", "/api/view_metadata/{folder}"),
    ("GET", "/api/v2/userdata"),
)

ROUTES = [
    SimulatedRoute("GET", "/api/object_info", object_info, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/experiment/models", model_folders, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/experiment/models/{folder}", models, RouteAccess.PUBLIC),
    SimulatedRoute(
        "GET",
        "/api/experiment/models/preview/{folder}/{index}/{file:.+}",
        preview,
        RouteAccess.PUBLIC,
    ),
    SimulatedRoute("GET", "/templates/{file}", template, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/features", features, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/system_stats", system_stats, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/extensions", extensions, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/workflow_templates", empty, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/node_replacements", node_replacements, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/global_subgraphs", subgraphs, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/api/global_subgraphs/{id}", subgraph, RouteAccess.PUBLIC),
    SimulatedRoute("GET", "/health", health, RouteAccess.PUBLIC),
    *(SimulatedRoute(method, path, stub) for method, path in STUBS),
]
