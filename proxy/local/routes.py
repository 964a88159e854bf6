"""The one table of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from proxy.local import (
    catalogue,
    cloud_routes,
    health,
    history,
    internal,
    jobs,
    prompt,
    queue,
    settings,
    socket,
    system,
    upload,
    userdata,
    view,
    web_interface,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the local API; with a `twin` it answers below `/api` as well.

    A GET route answers HEAD too.
    """

    method: str
    path: str
    handler: Handler
    twin: bool = True


ROUTES = (
    Route("GET", "/", web_interface.get_root),
    Route("GET", "/healthz", health.get_health, twin=False),
    Route("GET", "/readyz", health.get_readiness, twin=False),
    Route("GET", "/ws", socket.serve),
    # submitting and following
    Route("GET", "/prompt", prompt.get_prompt),
    Route("POST", "/prompt", prompt.post_prompt),
    Route("GET", "/queue", queue.get_queue),
    Route("POST", "/queue", queue.post_queue),
    Route("POST", "/interrupt", queue.post_interrupt),
    Route("GET", "/history", history.get_history),
    Route("POST", "/history", history.post_history),
    Route("GET", "/history/{prompt_id}", history.get_history_entry),
    Route("GET", "/api/jobs", jobs.list_jobs),
    Route("POST", "/api/jobs/cancel", jobs.cancel_jobs),
    Route("GET", "/api/jobs/{job_id}", jobs.get_job),
    Route("POST", "/api/jobs/{job_id}/cancel", jobs.cancel_job),
    # what only the cloud has, for programs that were written for it
    Route("GET", "/api/user", cloud_routes.get_user, twin=False),
    Route("GET", "/api/job/{job_id}/status", cloud_routes.get_status, twin=False),
    Route("GET", "/api/jobs/{job_id}/assets", cloud_routes.list_assets, twin=False),
    Route("GET", "/api/history_v2", cloud_routes.list_history, twin=False),
    Route("GET", "/api/history_v2/{prompt_id}", cloud_routes.get_history, twin=False),
    # files
    Route("GET", "/view", view.get_view),
    Route("POST", "/upload/image", upload.post_image),
    Route("POST", "/upload/mask", upload.post_mask),
    # catalogue
    Route("GET", "/object_info", catalogue.get_object_info),
    Route("GET", "/object_info/{node_class}", catalogue.get_node_class),
    Route("GET", "/models", catalogue.get_model_folders),
    Route("GET", "/models/{folder}", catalogue.get_models),
    Route("GET", "/embeddings", catalogue.get_embeddings),
    Route("GET", "/experiment/models", catalogue.get_model_folders_in_detail),
    Route("GET", "/experiment/models/{folder}", catalogue.get_models_in_detail),
    Route("GET", "/view_metadata/{folder}", system.get_nothing),
    # the member's own
    Route("GET", "/settings", settings.get_settings),
    Route("POST", "/settings", settings.post_settings),
    Route("GET", "/settings/{id}", settings.get_setting),
    Route("POST", "/settings/{id}", settings.post_setting),
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
    Route("GET", "/extensions", web_interface.get_extensions),
    Route("GET", "/i18n", system.get_empty_object),
    Route("GET", "/workflow_templates", system.get_empty_object),
    Route("GET", "/node_replacements", system.get_empty_object),
    Route("GET", "/global_subgraphs", system.get_empty_object),
    Route("GET", "/global_subgraphs/{id}", system.get_null),
    Route("GET", "/internal/logs", internal.get_log, twin=False),
    Route("GET", "/internal/logs/raw", internal.get_log_lines, twin=False),
    Route("PATCH", "/internal/logs/subscribe", internal.subscribe, twin=False),
    Route("GET", "/internal/folder_paths", internal.get_folders, twin=False),
    Route("GET", "/internal/files/{type}", internal.get_files, twin=False),
    # what this server does not have
    Route("*", "/api/assets", system.assets_disabled, twin=False),
    Route("*", "/api/assets/{rest:.*}", system.assets_disabled, twin=False),
    Route("*", "/api/tags", system.assets_disabled, twin=False),
    # the web interface
    Route("GET", "/templates/{path:.*}", web_interface.get_template, twin=False),
    Route("GET", "/docs/{path:.*}", web_interface.get_docs, twin=False),
    Route("GET", r"/{path:(?!internal\b).*}", web_interface.get_file, twin=False),
)


def add_routes(app: web.Application) -> None:
    """Put the table into the application."""
    for route in ROUTES:
        for path in (route.path, f"/api{route.path}") if route.twin else (route.path,):
            if route.method == "GET":
                app.router.add_get(path, route.handler, allow_head=True)
            else:
                app.router.add_route(route.method, path, route.handler)
