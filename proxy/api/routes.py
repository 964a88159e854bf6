"""The routes of a local ComfyUI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import product

from aiohttp import web
from msgspec import Struct

from proxy.api import (
    assets,
    cloud_routes,
    downloads,
    extension,
    jobs,
    packs,
    system,
    templates,
    upload,
    userdata,
    websocket,
)
from proxy.api.bodies import Handler
from proxy.packs.discovery import INSTALLED
from proxy.packs.pack import PackRoute


class Route(Struct, frozen=True):
    """A route of the local API; with a `twin` there is another one below `/api`.

    A GET route answers HEAD too. If there is an admin listener, only that serves routes that are
    `apart`. Those of `assets` have errors in the form of the assets API. `expects` answers
    `Expect: 100-continue`. `docs/routes.md` has the source of each answer and how it differs from
    ComfyUI's.
    """

    method: str
    path: str
    handler: Handler
    twin: bool = True
    apart: bool = False
    assets: bool = False
    expects: Callable[[web.Request], Awaitable[None]] | None = None


#: A route without a twin below `/api`.
_only = partial(Route, twin=False)


def _pack(route: PackRoute) -> Route:
    """Return a route of a node pack as one of the server."""
    return Route(
        route.method,
        route.path,
        packs.handler_of(route),
        twin=route.twin,
        expects=packs.expect if route.reads_late else None,
    )


#: A route of the assets API.
_asset = partial(Route, twin=False, assets=True)

#: What `*` stands for: aiohttp-cors does not support wildcards.
_ALL_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

ROUTES = (
    Route("GET", "/", system.get_root),
    _only("GET", "/healthz", system.get_health),
    _only("GET", "/leader", system.get_leader),
    _only("GET", "/readyz", system.get_readiness),
    Route("GET", "/ws", websocket.serve),
    # submitting and following
    Route("GET", "/prompt", jobs.get_prompt),
    Route("POST", "/prompt", jobs.post_prompt),
    Route("GET", "/queue", jobs.get_queue),
    Route("POST", "/queue", jobs.post_queue),
    Route("POST", "/interrupt", jobs.post_interrupt),
    Route("GET", "/history/{prompt_id}", jobs.get_history_entry),
    Route("GET", "/history", jobs.get_history),
    Route("POST", "/history", jobs.post_history),
    Route("GET", "/api/jobs", jobs.list_jobs),
    Route("POST", "/api/jobs/cancel", jobs.cancel_jobs),
    Route("GET", "/api/jobs/{job_id}", jobs.get_job),
    Route("POST", "/api/jobs/{job_id}/cancel", jobs.cancel_job),
    # what only the cloud has, for programs that were written for it
    _only("GET", "/api/user", cloud_routes.get_cloud_user),
    _only("GET", "/api/job/{job_id}/status", cloud_routes.get_cloud_status),
    _only("GET", "/api/jobs/{job_id}/assets", cloud_routes.list_cloud_assets),
    _only("GET", "/api/history_v2", cloud_routes.list_cloud_history),
    _only("GET", "/api/history_v2/{prompt_id}", cloud_routes.get_cloud_history),
    # files
    Route("GET", "/view", downloads.get_view),
    Route("GET", "/viewvideo", downloads.get_view),
    Route("GET", "/vhs/viewvideo", downloads.get_view),
    Route("GET", "/vhs/viewaudio", downloads.get_view),
    Route("POST", "/upload/image", upload.post_image),
    Route("POST", "/upload/mask", upload.post_mask),
    # catalog
    Route("GET", "/object_info", system.get_object_info),
    Route("GET", "/object_info/{node_class}", system.get_node_class),
    Route("GET", "/models", system.get_model_folders),
    Route("GET", "/models/{folder}", system.get_models),
    Route("GET", "/embeddings", system.get_embeddings),
    Route("GET", "/experiment/models", system.get_model_folders_in_detail),
    Route("GET", "/experiment/models/{folder}", system.get_models_in_detail),
    Route(
        "GET",
        "/experiment/models/preview/{folder}/{path_index}/{filename:.*}",
        system.get_model_preview,
    ),
    Route("GET", "/view_metadata/{folder}", system.get_nothing),
    Route("GET", "/node_replacements", system.get_node_replacements),
    Route("GET", "/global_subgraphs", system.get_subgraphs),
    Route("GET", "/global_subgraphs/{id}", system.get_subgraph),
    # the member's own
    Route("GET", "/settings", userdata.get_settings),
    Route("POST", "/settings", userdata.post_settings),
    Route("GET", "/settings/{id}", userdata.get_setting),
    Route("POST", "/settings/{id}", userdata.post_setting),
    Route("GET", "/userdata", userdata.list_files),
    Route("GET", "/userdata/{file}", userdata.get_file),
    Route("POST", "/userdata/{file}", userdata.post_file),
    Route("DELETE", "/userdata/{file}", userdata.delete_file),
    Route("POST", "/userdata/{file}/move/{dest}", userdata.move_file),
    Route("GET", "/v2/userdata", userdata.list_tree),
    # the server itself
    Route("GET", "/system_stats", system.get_system_stats),
    Route("GET", "/features", system.get_features),
    Route("POST", "/free", system.post_free),
    Route("GET", "/users", system.get_users),
    Route("POST", "/users", userdata.post_user),
    Route("GET", "/extensions", system.get_extensions),
    Route("GET", "/i18n", system.get_empty_object),
    Route("GET", "/workflow_templates", system.get_empty_object),
    _only("GET", "/internal/logs", system.get_log),
    _only("GET", "/internal/logs/raw", system.get_log_lines),
    _only("PATCH", "/internal/logs/subscribe", system.subscribe),
    _only("GET", "/internal/folder_paths", system.get_folders),
    _only("GET", "/internal/files/{type}", system.get_files),
    # node packs of desktop clients
    *(_pack(route) for pack in INSTALLED.packs for route in pack.routes),
    # assets
    _asset("GET", "/api/assets", assets.list_assets),
    _asset("POST", "/api/assets", assets.post_asset),
    _asset("GET", f"/api/assets/{assets.ID}", assets.get_asset),
    _asset("PUT", f"/api/assets/{assets.ID}", assets.put_asset),
    _asset("DELETE", f"/api/assets/{assets.ID}", assets.delete_asset),
    _asset("GET", f"/api/assets/{assets.ID}/content", assets.get_content),
    _asset("POST", f"/api/assets/{assets.ID}/tags", assets.add_tags),
    _asset("DELETE", f"/api/assets/{assets.ID}/tags", assets.remove_tags),
    _asset("POST", "/api/assets/from-hash", assets.post_from_hash),
    _asset("HEAD", "/api/assets/hash/{hash}", assets.head_hash),
    _asset("GET", "/api/assets/tags/refine", assets.refine_tags),
    _asset("GET", "/api/tags", assets.list_tags),
    _asset("POST", "/api/assets/seed", assets.post_seed),
    _asset("GET", "/api/assets/seed/status", assets.get_seed_status),
    _asset("POST", "/api/assets/seed/cancel", assets.cancel_seed),
    _asset("POST", "/api/assets/prune", assets.prune),
    _asset("POST", "/api/assets/export", assets.post_export),
    _asset("GET", "/api/assets/exports/{name}", assets.get_export),
    _asset("GET", "/api/tasks/{id}", assets.get_task),
    _asset("DELETE", "/api/tasks/{id}", assets.cancel_task),
    _asset("POST", "/api/assets/download", assets.not_here),
    _asset("POST", "/api/assets/import", assets.not_here),
    _asset("GET", "/api/assets/remote-metadata", assets.not_here),
    # the web interface
    _only("GET", extension.SCRIPT_PATH, extension.get_script),
    _only("GET", "/templates/{path:.*}", templates.get_template),
    _only("GET", "/docs/{path:.*}", system.get_docs),
    _only("GET", r"/{path:(?!internal\b).*}", system.get_file),
)


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Add routes to the application."""
    for route in routes:
        handler = assets.nested(route.handler) if route.assets else route.handler
        paths = (route.path, f"/api{route.path}") if route.twin else (route.path,)
        methods = _ALL_METHODS if route.method == "*" else (route.method,)
        for path, method in product(paths, methods):
            if method == "GET":
                app.router.add_get(path, handler, allow_head=True)
            else:
                app.router.add_route(method, path, handler, expect_handler=route.expects)
