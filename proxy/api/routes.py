"""The one table of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto

from aiohttp import web

from proxy.api import (
    catalogue,
    cloud_routes,
    health,
    history,
    internal,
    jobs,
    prompt,
    queue,
    settings,
    sign_in,
    socket,
    system,
    upload,
    userdata,
    view,
    web_interface,
)
from proxy.api import deviations as but
from proxy.api.admin import audit, dashboard, members, metrics, usage
from proxy.api.authenticator import SIGN_IN, SIGN_OUT

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source(Flag):
    """Where an answer comes from."""

    OWN = auto()
    CACHE = auto()
    CLOUD = auto()
    PROCESS = auto()
    PACKAGE = auto()
    CONSTANT = auto()


OWN, CACHE, CLOUD = Source.OWN, Source.CACHE, Source.CLOUD
PROCESS, PACKAGE, CONSTANT = Source.PROCESS, Source.PACKAGE, Source.CONSTANT


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the local API; with a `twin` it answers below `/api` as well.

    A GET route answers HEAD too. `source` and `deviation` (how it differs from ComfyUI and why,
    `SAME` where it does not) are for the page of the routes; each route has them. One that is
    `apart` is served by the admin listener alone where there is one.
    """

    method: str
    path: str
    handler: Handler
    source: Source | None = None
    deviation: str | None = None
    twin: bool = True
    apart: bool = False


#: As in ComfyUI.
SAME = ""

ROUTES = (
    Route("GET", "/", web_interface.get_root, PACKAGE | CONSTANT, but.WITHOUT_PACKAGES),
    Route("GET", "/healthz", health.get_health, PROCESS, but.FOR_WATCHERS, twin=False),
    Route("GET", "/readyz", health.get_readiness, PROCESS | CLOUD, but.FOR_WATCHERS, twin=False),
    Route("GET", "/ws", socket.serve, OWN | CLOUD, but.WEBSOCKET),
    # for admins
    Route(
        "GET", metrics.PATH, metrics.get_metrics, PROCESS, but.FOR_ADMINS, twin=False, apart=True
    ),
    Route("GET", "/proxy/api/usage", usage.get_usage, OWN, but.FOR_ADMINS, twin=False),
    Route("GET", "/proxy/api/audit", audit.get_audit, OWN, but.FOR_ADMINS, twin=False, apart=True),
    Route("GET", "/proxy", dashboard.get_bare, CONSTANT, but.FOR_ADMINS, twin=False),
    Route("GET", "/proxy/", dashboard.get_page, CONSTANT, but.FOR_ADMINS, twin=False),
    Route(
        "GET", "/proxy/dashboard.{kind}", dashboard.get_part, CONSTANT, but.FOR_ADMINS, twin=False
    ),
    Route("GET", "/proxy/api/state", dashboard.get_state, OWN, but.FOR_ADMINS, twin=False),
    Route("GET", "/proxy/api/events", dashboard.get_events, OWN, but.FOR_ADMINS, twin=False),
    Route(
        "POST", "/proxy/api/jobs/cancel", dashboard.cancel, OWN | CLOUD, but.FOR_ADMINS, twin=False
    ),
    # submitting and following
    Route("GET", "/prompt", prompt.get_prompt, OWN, SAME),
    Route("POST", "/prompt", prompt.post_prompt, OWN | CLOUD, but.SUBMISSION),
    Route("GET", "/queue", queue.get_queue, OWN, but.QUEUE),
    Route("POST", "/queue", queue.post_queue, OWN | CLOUD, SAME),
    Route("POST", "/interrupt", queue.post_interrupt, OWN | CLOUD, but.INTERRUPT),
    Route("GET", "/history", history.get_history, OWN, but.HISTORY),
    Route("POST", "/history", history.post_history, OWN, but.FORGETTING),
    Route("GET", "/history/{prompt_id}", history.get_history_entry, OWN, but.ENTRY),
    Route("GET", "/api/jobs", jobs.list_jobs, OWN, SAME),
    Route("POST", "/api/jobs/cancel", jobs.cancel_jobs, OWN | CLOUD, SAME),
    Route("GET", "/api/jobs/{job_id}", jobs.get_job, OWN, SAME),
    Route("POST", "/api/jobs/{job_id}/cancel", jobs.cancel_job, OWN | CLOUD, SAME),
    # what only the cloud has, for programs that were written for it
    Route("GET", "/api/user", cloud_routes.get_user, OWN, but.THE_CLOUDS, twin=False),
    Route(
        "GET", "/api/job/{job_id}/status", cloud_routes.get_status, OWN, but.THE_CLOUDS, twin=False
    ),
    Route(
        "GET",
        "/api/jobs/{job_id}/assets",
        cloud_routes.list_assets,
        OWN,
        but.THE_CLOUDS,
        twin=False,
    ),
    Route("GET", "/api/history_v2", cloud_routes.list_history, OWN, but.THE_CLOUDS, twin=False),
    Route(
        "GET",
        "/api/history_v2/{prompt_id}",
        cloud_routes.get_history,
        OWN,
        but.THE_CLOUDS,
        twin=False,
    ),
    # files
    Route("GET", "/view", view.get_view, OWN | CACHE | CLOUD, but.VIEW),
    Route("GET", "/viewvideo", view.get_view, OWN | CACHE | CLOUD, but.OF_VIDEO_HELPER),
    Route("GET", "/vhs/viewvideo", view.get_view, OWN | CACHE | CLOUD, but.OF_VIDEO_HELPER),
    Route("GET", "/vhs/viewaudio", view.get_view, OWN | CACHE | CLOUD, but.OF_VIDEO_HELPER),
    Route("POST", "/upload/image", upload.post_image, OWN, but.UPLOADS),
    Route("POST", "/upload/mask", upload.post_mask, OWN, but.UPLOADS),
    # catalogue
    Route("GET", "/object_info", catalogue.get_object_info, CACHE, but.PACKED),
    Route("GET", "/object_info/{node_class}", catalogue.get_node_class, CACHE, SAME),
    Route("GET", "/models", catalogue.get_model_folders, CACHE, SAME),
    Route("GET", "/models/{folder}", catalogue.get_models, CACHE, SAME),
    Route("GET", "/embeddings", catalogue.get_embeddings, CACHE, SAME),
    Route("GET", "/experiment/models", catalogue.get_model_folders_in_detail, CACHE, but.NO_PATHS),
    Route(
        "GET", "/experiment/models/{folder}", catalogue.get_models_in_detail, CACHE, but.NO_TIMES
    ),
    Route(
        "GET",
        "/experiment/models/preview/{folder}/{path_index}/{filename:.*}",
        catalogue.get_model_preview,
        CACHE,
        but.PICTURES,
    ),
    Route("GET", "/view_metadata/{folder}", system.get_nothing, CONSTANT, but.NO_METADATA),
    Route(
        "GET", "/node_replacements", catalogue.get_node_replacements, CACHE, but.EMPTY_WITHOUT_CLOUD
    ),
    Route("GET", "/global_subgraphs", catalogue.get_subgraphs, CACHE, but.EMPTY_WITHOUT_CLOUD),
    Route("GET", "/global_subgraphs/{id}", catalogue.get_subgraph, CACHE, but.EMPTY_WITHOUT_CLOUD),
    # the member's own
    Route("GET", "/settings", settings.get_settings, OWN | CLOUD, but.USERDATA),
    Route("POST", "/settings", settings.post_settings, OWN | CLOUD, but.USERDATA),
    Route("GET", "/settings/{id}", settings.get_setting, OWN | CLOUD, but.USERDATA),
    Route("POST", "/settings/{id}", settings.post_setting, OWN | CLOUD, but.USERDATA),
    Route("GET", "/userdata", userdata.list_files, OWN | CLOUD, but.USERDATA),
    Route("GET", "/userdata/{file}", userdata.get_file, OWN | CLOUD, but.USERDATA),
    Route("POST", "/userdata/{file}", userdata.post_file, OWN | CLOUD, but.USERDATA),
    Route("DELETE", "/userdata/{file}", userdata.delete_file, OWN | CLOUD, but.USERDATA),
    Route("POST", "/userdata/{file}/move/{dest}", userdata.move_file, OWN | CLOUD, but.USERDATA),
    Route("GET", "/v2/userdata", userdata.list_tree, OWN | CLOUD, but.USERDATA),
    # the server itself
    Route("GET", "/system_stats", system.get_system_stats, PROCESS, but.MACHINE),
    Route("GET", "/features", system.get_features, CONSTANT, but.FEATURES),
    Route("POST", "/free", system.post_free, CONSTANT, but.FREE),
    Route("GET", "/users", system.get_users, CONSTANT, but.USERS),
    Route("GET", "/extensions", web_interface.get_extensions, PACKAGE, but.EXTENSIONS),
    Route("GET", "/i18n", system.get_empty_object, CONSTANT, but.TRANSLATIONS),
    Route("GET", "/workflow_templates", system.get_empty_object, CONSTANT, but.TEMPLATES),
    Route("GET", "/internal/logs", internal.get_log, PROCESS, but.LOG, twin=False),
    Route("GET", "/internal/logs/raw", internal.get_log_lines, PROCESS, but.LOG, twin=False),
    Route("PATCH", "/internal/logs/subscribe", internal.subscribe, PROCESS, but.LOG, twin=False),
    Route("GET", "/internal/folder_paths", internal.get_folders, CACHE, but.NO_PATHS, twin=False),
    Route("GET", "/internal/files/{type}", internal.get_files, OWN, SAME, twin=False),
    # members
    Route("GET", SIGN_IN, sign_in.get_sign_in, OWN, but.FOR_BROWSERS, twin=False),
    Route("POST", SIGN_IN, sign_in.post_sign_in, OWN, but.FOR_BROWSERS, twin=False),
    Route("POST", SIGN_OUT, sign_in.post_sign_out, OWN, but.FOR_BROWSERS, twin=False),
    Route("GET", "/proxy/api/members", members.list_members, OWN, but.FOR_ADMINS, twin=False),
    Route("POST", "/proxy/api/members", members.add_member, OWN, but.FOR_ADMINS, twin=False),
    Route(
        "PATCH", "/proxy/api/members/{name}", members.change_member, OWN, but.FOR_ADMINS, twin=False
    ),
    Route(
        "DELETE",
        "/proxy/api/members/{name}",
        members.remove_member,
        OWN,
        but.FOR_ADMINS,
        twin=False,
    ),
    Route("GET", "/proxy/api/tokens", members.list_tokens, OWN, but.FOR_ADMINS, twin=False),
    Route("POST", "/proxy/api/tokens", members.make_token, OWN, but.FOR_ADMINS, twin=False),
    Route(
        "DELETE",
        "/proxy/api/tokens/{prefix}",
        members.revoke_token,
        OWN,
        but.FOR_ADMINS,
        twin=False,
    ),
    # what this server does not have
    Route("*", "/api/assets", system.assets_disabled, CONSTANT, but.NO_ASSETS, twin=False),
    Route(
        "*", "/api/assets/{rest:.*}", system.assets_disabled, CONSTANT, but.NO_ASSETS, twin=False
    ),
    Route("*", "/api/tags", system.assets_disabled, CONSTANT, but.NO_ASSETS, twin=False),
    # the web interface
    Route(
        "GET",
        "/templates/{path:.*}",
        web_interface.get_template,
        PACKAGE,
        but.WITHOUT_PACKAGES,
        twin=False,
    ),
    Route(
        "GET", "/docs/{path:.*}", web_interface.get_docs, PACKAGE, but.WITHOUT_PACKAGES, twin=False
    ),
    Route(
        "GET",
        r"/{path:(?!internal\b).*}",
        web_interface.get_file,
        PACKAGE,
        but.WITHOUT_PACKAGES,
        twin=False,
    ),
)


def of_clients(*, apart: bool) -> list[Route]:
    """The routes of the clients' listener, with or without an admin listener beside it."""
    return [route for route in ROUTES if not (apart and route.apart)]


def of_admins() -> list[Route]:
    """The routes of the admin listener."""
    return [route for route in ROUTES if route.apart or f"{route.path}/".startswith("/proxy/")]


def add_routes(app: web.Application, routes: Iterable[Route] = ROUTES) -> None:
    """Put routes into the application."""
    for route in routes:
        for path in (route.path, f"/api{route.path}") if route.twin else (route.path,):
            if route.method == "GET":
                app.router.add_get(path, route.handler, allow_head=True)
            elif route.method == "*":  # one by one, since aiohttp-cors takes no route for all
                app.router.add_get(path, route.handler, allow_head=True)
                for method in ("POST", "PUT", "PATCH", "DELETE"):
                    app.router.add_route(method, path, route.handler)
            else:
                app.router.add_route(route.method, path, route.handler)
