"""The one table of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from functools import partial

from aiohttp import web

from proxy.api import (
    assets,
    dashboard,
    downloads,
    helper_nodes,
    jobs,
    members,
    records,
    system,
    upload,
    userdata,
    web_interface,
    websocket,
)
from proxy.api.authenticator import SIGN_IN, SIGN_OUT
from proxy.api.bodies import Handler

# How routes differ from those of a local ComfyUI: one text for each reason.

#: As in ComfyUI.
SAME = ""
WEBSOCKET = (
    "A client that opens its websocket after the submission, and sends no feature flags, gets no "
    "previews: a ComfyUI sends none unless started with --preview-method, and such clients treat "
    "every picture as a result. `extra_data.preview_method` `none` disables previews. Progress "
    "texts go only to the client that submitted the job. Messages of node packs stay on the "
    "cloud. If two websockets have the same `clientId`, the newer one keeps receiving after the "
    "older one closes."
)
SUBMISSION = (
    "400 for a `number` that is not finite, for targets that are not a list, and for a "
    "`prompt_id` that is in the queue. Refusals of Comfy Cloud (plan, credits) are a 400 with the "
    "reason."
)
QUEUE = (
    "Several jobs can run at once. Pending jobs are listed in the order in which they will run. "
    "The queue survives a restart."
)
INTERRUPT = (
    "Without a `prompt_id` it stops the running jobs that the same program submitted (same token, "
    "address and User-Agent, or the `client_id` in the body); if there are none, the job that has "
    "been running longest. It never stops all jobs. A node that ignores interrupts is stopped "
    "too."
)
HISTORY = (
    "It survives a restart. A list that was sent wrapped in `__value__` stays wrapped. Cached "
    "outputs have file names of this job, because the cloud does not report the original job."
)
FORGETTING = (
    "The jobs stay in the history of the Comfy Cloud account, because deleting them there would "
    "delete their files."
)
JOB = (
    "A job that no account can run, or that waits for another job of its client, has a "
    "`queue_reason` and can have a `queue_message`."
)
ENTRY = "The entry is readable before `execution_success` is sent, not after it."
VIEW = (
    "Below /api and with X-API-Key it redirects to /view, as programs for Comfy Cloud expect. 400 "
    "for `preview` and `channel` of a picture with more than 67,108,864 pixels. The workflow in a "
    "PNG or WebP has the client's file names; in videos and audio it has the cloud's."
)
UPLOADS = (
    "Comfy Cloud's limits apply: 50 MiB (413), and for pictures 16,384 pixels along an edge and "
    "67,108,864 in all (400). Pictures are sent as uploads, all other files as assets, so that "
    "their loaders find them; an empty file is taken, and fails in its loader. A mask of another "
    "size than its picture is a 400, not a 500."
)
PACKED = (
    "Compressed with zstd or gzip on request, with an entity tag. Comfy Cloud has no folders of "
    "inputs: a node that loads from a folder is refused."
)
NO_PATHS = "Folders have names instead of paths: they are on the cloud."
NO_TIMES = "Times and sizes are 0, because the cloud does not report them."
NO_METADATA = "Always 404, because the cloud does not show the content of model files."
MACHINE = (
    "The versions are those of the ComfyUI release that the proxy follows. The GPU and its memory "
    "are placeholders."
)
FEATURES = (
    "`max_upload_size` is in whole bytes and at most what Comfy Cloud accepts. All flags are in "
    "[Web interface](web-interface.md#feature-flags)."
)
FREE = "It has no effect: Comfy Cloud manages its memory."
USERS = "Members are identified by their tokens, not by `--multi-user`."
EXTENSIONS = (
    "Only the extensions of the web interface: those of the cloud call routes that only the cloud "
    "has."
)
TRANSLATIONS = "Always empty: the cloud does not show the translations of its node packs."
TEMPLATES = "Always empty: the cloud does not show templates of node packs."
LOG = "The log lines of the proxy that are about the member."
PICTURES = "404 if the cloud has no picture."
TEMPLATE_PICTURES = (
    "Pictures whose package is not installed come from Comfy Cloud; a tile in one colour stands "
    "for one that does not come."
)
WITHOUT_PACKAGES = (
    "Without the packages of the web interface, `/` is a page of the proxy and everything else is "
    "a 404."
)
FOR_WATCHERS = "Not in ComfyUI: for health checks."
FOR_BROWSERS = "Not in ComfyUI: with members, browsers sign in with a token."
FOR_ADMINS = "Not in ComfyUI: for admins; members see only their own data."
THE_CLOUDS = "Not in ComfyUI: for programs that were written for Comfy Cloud."
OF_VIDEO_HELPER = (
    "Not in ComfyUI: other names of `/view` in Comfy Cloud and VideoHelperSuite. Nothing is "
    "transcoded."
)
USERDATA = (
    "With the setting userdata = cloud they are in the account. Such files have no ranges, entity "
    "tags or creation time, because the cloud does not report them."
)
EMPTY_WITHOUT_CLOUD = "Empty while the cloud does not answer."
KEPT = (
    "Pictures belong to a member, are stored for a day at most, and survive a restart. A result "
    "is made from the cloud's file each time. 413 for a picture that exceeds the limit of request "
    "bodies or of the member. Parameters of a media type are dropped."
)
GUESSED = (
    "Guessed from the names of the models, because the cloud does not show the content of files. "
    "400 for a `limit` that is not a number."
)
NO_MODELS = "403 for a model that the cloud does not have: you cannot upload models."
WITHIN = "Members receive only their own messages. They are kept in memory."
API_FORMAT = "400 for a workflow in the format of the web interface."
EXACT = "It stops only the given job."
ASSETS = (
    "From the member's own records. `hash` and `size` are absent for models, and for an output "
    "until the proxy knows them; `metadata` is the size of a picture that the proxy has seen. "
    "`temp` files and outputs are deleted with the oldest jobs of the history."
)
ASSET_FILES = (
    "With ranges and an entity tag. 501 for a model: Comfy Cloud hands none out. The workflow in "
    "a PNG or WebP has the client's file names, so that its bytes are not those of `hash`."
)
ASSET_UPLOADS = (
    "Comfy Cloud's limits of uploads apply. A model is a 400: the cloud takes none from here. A "
    "`hash` stands for the member's own contents alone."
)
ASSET_SCANS = (
    "A scan is over when it is answered: the proxy writes the record of a file with the file. The "
    "messages go to the member's sockets alone."
)
ASSET_EXPORTS = (
    "An archive has less than 2 GiB and is made as it is downloaded. The last 20 exports of a "
    "member are kept, for a day."
)
NO_IMPORTS = "Always 501: models are imported at cloud.comfy.org."
NO_ASSETS = "With the setting `assets` off: always 503, as in a ComfyUI with --disable-assets."


class AnswerSource(Flag):
    """Where an answer comes from."""

    OWN = auto()
    CACHE = auto()
    CLOUD = auto()
    PROCESS = auto()
    PACKAGE = auto()
    CONSTANT = auto()


OWN, CACHE, CLOUD, PROCESS, PACKAGE, CONSTANT = AnswerSource


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the local API; with a `twin` it answers below `/api` as well.

    A GET route answers HEAD too. `source` and `deviation` (how it differs from ComfyUI and why,
    `SAME` where it does not) are for the page of the routes; each route has them. One that is
    `apart` is served by the admin listener alone where there is one, a `helper` is there with the
    setting helper_nodes alone, one with `assets` where that setting is the same. `expects` answers
    `Expect: 100-continue`.
    """

    method: str
    path: str
    handler: Handler
    source: AnswerSource | None = None
    deviation: str | None = None
    twin: bool = True
    apart: bool = False
    helper: bool = False
    assets: bool | None = None
    expects: Callable[[web.Request], Awaitable[None]] | None = None


#: A route without a twin below `/api`.
_only = partial(Route, twin=False)

#: A route of a node pack that the proxy stands in for.
_pack = partial(Route, helper=True)

#: A route of the assets API.
_asset = partial(Route, twin=False, assets=True)

#: A route of it without the setting.
_off = partial(Route, twin=False, assets=False)

ROUTES = (
    Route("GET", "/", web_interface.get_root, PACKAGE | CONSTANT, WITHOUT_PACKAGES),
    _only("GET", "/healthz", system.get_health, PROCESS, FOR_WATCHERS),
    _only("GET", "/readyz", system.get_readiness, PROCESS | CLOUD, FOR_WATCHERS),
    Route("GET", "/ws", websocket.serve, OWN | CLOUD, WEBSOCKET),
    # for admins
    _only("GET", "/metrics", records.get_metrics, PROCESS, FOR_ADMINS, apart=True),
    _only("GET", "/proxy/api/usage", records.get_usage, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/audit", records.get_audit, OWN, FOR_ADMINS, apart=True),
    _only("GET", "/proxy/api/cloud-surprises", records.get_surprises, OWN, FOR_ADMINS, apart=True),
    _only("GET", "/proxy", dashboard.get_bare, CONSTANT, FOR_ADMINS),
    _only("GET", "/proxy/", dashboard.get_page, CONSTANT, FOR_ADMINS),
    _only("GET", "/proxy/page/{name}", dashboard.get_part, CONSTANT, FOR_ADMINS),
    _only("GET", "/proxy/api/state", dashboard.get_state, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/events", dashboard.get_events, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/activity", records.get_activity, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/jobs", records.list_jobs, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/job", records.get_job, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/thumbnail", records.get_thumbnail, CACHE, FOR_ADMINS),
    _only("POST", "/proxy/api/jobs/cancel", dashboard.cancel, OWN | CLOUD, FOR_ADMINS),
    # submitting and following
    Route("GET", "/prompt", jobs.get_prompt, OWN, SAME),
    Route("POST", "/prompt", jobs.post_prompt, OWN | CLOUD, SUBMISSION),
    Route("GET", "/queue", jobs.get_queue, OWN, QUEUE),
    Route("POST", "/queue", jobs.post_queue, OWN | CLOUD, SAME),
    Route("POST", "/interrupt", jobs.post_interrupt, OWN | CLOUD, INTERRUPT),
    Route("GET", "/history", jobs.get_history, OWN, HISTORY),
    Route("POST", "/history", jobs.post_history, OWN, FORGETTING),
    Route("GET", "/history/{prompt_id}", jobs.get_history_entry, OWN, ENTRY),
    Route("GET", "/api/jobs", jobs.list_jobs, OWN, SAME),
    Route("POST", "/api/jobs/cancel", jobs.cancel_jobs, OWN | CLOUD, SAME),
    Route("GET", "/api/jobs/{job_id}", jobs.get_job, OWN, JOB),
    Route("POST", "/api/jobs/{job_id}/cancel", jobs.cancel_job, OWN | CLOUD, SAME),
    # what only the cloud has, for programs that were written for it
    _only("GET", "/api/user", jobs.get_cloud_user, OWN, THE_CLOUDS),
    _only("GET", "/api/job/{job_id}/status", jobs.get_cloud_status, OWN, THE_CLOUDS),
    _only("GET", "/api/jobs/{job_id}/assets", jobs.list_cloud_assets, OWN, THE_CLOUDS),
    _only("GET", "/api/history_v2", jobs.list_cloud_history, OWN, THE_CLOUDS),
    _only("GET", "/api/history_v2/{prompt_id}", jobs.get_cloud_history, OWN, THE_CLOUDS),
    # files
    Route("GET", "/view", downloads.get_view, OWN | CACHE | CLOUD, VIEW),
    Route("GET", "/viewvideo", downloads.get_view, OWN | CACHE | CLOUD, OF_VIDEO_HELPER),
    Route("GET", "/vhs/viewvideo", downloads.get_view, OWN | CACHE | CLOUD, OF_VIDEO_HELPER),
    Route("GET", "/vhs/viewaudio", downloads.get_view, OWN | CACHE | CLOUD, OF_VIDEO_HELPER),
    Route("POST", "/upload/image", upload.post_image, OWN, UPLOADS),
    Route("POST", "/upload/mask", upload.post_mask, OWN, UPLOADS),
    # catalog
    Route("GET", "/object_info", system.get_object_info, CACHE, PACKED),
    Route("GET", "/object_info/{node_class}", system.get_node_class, CACHE, SAME),
    Route("GET", "/models", system.get_model_folders, CACHE, SAME),
    Route("GET", "/models/{folder}", system.get_models, CACHE, SAME),
    Route("GET", "/embeddings", system.get_embeddings, CACHE, SAME),
    Route("GET", "/experiment/models", system.get_model_folders_in_detail, CACHE, NO_PATHS),
    Route("GET", "/experiment/models/{folder}", system.get_models_in_detail, CACHE, NO_TIMES),
    Route(
        "GET",
        "/experiment/models/preview/{folder}/{path_index}/{filename:.*}",
        system.get_model_preview,
        CACHE,
        PICTURES,
    ),
    Route("GET", "/view_metadata/{folder}", system.get_nothing, CONSTANT, NO_METADATA),
    Route("GET", "/node_replacements", system.get_node_replacements, CACHE, EMPTY_WITHOUT_CLOUD),
    Route("GET", "/global_subgraphs", system.get_subgraphs, CACHE, EMPTY_WITHOUT_CLOUD),
    Route("GET", "/global_subgraphs/{id}", system.get_subgraph, CACHE, EMPTY_WITHOUT_CLOUD),
    # the member's own
    Route("GET", "/settings", userdata.get_settings, OWN | CLOUD, USERDATA),
    Route("POST", "/settings", userdata.post_settings, OWN | CLOUD, USERDATA),
    Route("GET", "/settings/{id}", userdata.get_setting, OWN | CLOUD, USERDATA),
    Route("POST", "/settings/{id}", userdata.post_setting, OWN | CLOUD, USERDATA),
    Route("GET", "/userdata", userdata.list_files, OWN | CLOUD, USERDATA),
    Route("GET", "/userdata/{file}", userdata.get_file, OWN | CLOUD, USERDATA),
    Route("POST", "/userdata/{file}", userdata.post_file, OWN | CLOUD, USERDATA),
    Route("DELETE", "/userdata/{file}", userdata.delete_file, OWN | CLOUD, USERDATA),
    Route("POST", "/userdata/{file}/move/{dest}", userdata.move_file, OWN | CLOUD, USERDATA),
    Route("GET", "/v2/userdata", userdata.list_tree, OWN | CLOUD, USERDATA),
    # the server itself
    Route("GET", "/system_stats", system.get_system_stats, PROCESS, MACHINE),
    Route("GET", "/features", system.get_features, CONSTANT, FEATURES),
    Route("POST", "/free", system.post_free, CONSTANT, FREE),
    Route("GET", "/users", system.get_users, CONSTANT, USERS),
    Route("GET", "/extensions", web_interface.get_extensions, PACKAGE, EXTENSIONS),
    Route("GET", "/i18n", system.get_empty_object, CONSTANT, TRANSLATIONS),
    Route("GET", "/workflow_templates", system.get_empty_object, CONSTANT, TEMPLATES),
    _only("GET", "/internal/logs", system.get_log, PROCESS, LOG),
    _only("GET", "/internal/logs/raw", system.get_log_lines, PROCESS, LOG),
    _only("PATCH", "/internal/logs/subscribe", system.subscribe, PROCESS, LOG),
    _only("GET", "/internal/folder_paths", system.get_folders, CACHE, NO_PATHS),
    _only("GET", "/internal/files/{type}", system.get_files, OWN, SAME),
    # members
    _only("GET", SIGN_IN, members.get_sign_in, OWN, FOR_BROWSERS),
    _only("POST", SIGN_IN, members.post_sign_in, OWN, FOR_BROWSERS),
    _only("POST", SIGN_OUT, members.post_sign_out, OWN, FOR_BROWSERS),
    _only("GET", "/proxy/api/members", members.list_members, OWN, FOR_ADMINS),
    _only("POST", "/proxy/api/members", members.add_member, OWN, FOR_ADMINS),
    _only("PATCH", "/proxy/api/members/{name}", members.change_member, OWN, FOR_ADMINS),
    _only("DELETE", "/proxy/api/members/{name}", members.remove_member, OWN, FOR_ADMINS),
    _only("GET", "/proxy/api/tokens", members.list_tokens, OWN, FOR_ADMINS),
    _only("POST", "/proxy/api/tokens", members.make_token, OWN, FOR_ADMINS),
    _only("DELETE", "/proxy/api/tokens/{prefix}", members.revoke_token, OWN, FOR_ADMINS),
    # node packs of desktop clients
    _pack("GET", "/api/etn/image/{id}", helper_nodes.get_image, OWN | CLOUD, KEPT),
    _pack(
        "PUT",
        "/api/etn/image/{id}",
        helper_nodes.put_image,
        OWN,
        KEPT,
        twin=False,
        expects=helper_nodes.expect,
    ),
    _pack("GET", "/api/etn/model_info", helper_nodes.get_model_info, CACHE, GUESSED),
    _pack("GET", "/api/etn/model_info/{folder}", helper_nodes.get_model_info, CACHE, GUESSED),
    _pack("PUT", "/api/etn/upload/{folder}/{filename}", helper_nodes.put_model, CACHE, NO_MODELS),
    _pack("GET", "/api/etn/languages", helper_nodes.get_languages, CONSTANT, SAME),
    _pack("GET", "/api/etn/translate/{lang}/{text}", helper_nodes.get_translation, CONSTANT, SAME),
    _pack("POST", "/api/etn/workflow/publish", helper_nodes.publish, PROCESS, WITHIN),
    _pack("POST", "/api/etn/workflow/subscribe", helper_nodes.subscribe, PROCESS, WITHIN),
    _pack("POST", "/api/etn/workflow/unsubscribe", helper_nodes.unsubscribe, PROCESS, WITHIN),
    _pack("GET", "/blender/samplers", helper_nodes.get_samplers, CACHE, SAME),
    _pack("GET", "/blender/workflows", helper_nodes.get_workflows, OWN | CLOUD, SAME),
    _pack("GET", "/blender/workflow", helper_nodes.get_workflow, OWN | CLOUD, API_FORMAT),
    _pack(
        "POST",
        "/sidefx_houdini/command/refresh_all_images",
        helper_nodes.refresh_images,
        PROCESS,
        WITHIN,
    ),
    _pack(
        "POST", "/sidefx_houdini/command/refresh_image", helper_nodes.refresh_image, PROCESS, WITHIN
    ),
    _pack(
        "POST", "/sidefx_houdini/command/create_loader", helper_nodes.create_loader, PROCESS, WITHIN
    ),
    _pack("POST", "/sidefx_houdini/messages/get", helper_nodes.get_notes, PROCESS, WITHIN),
    _pack("POST", "/sidefx_houdini/interrupt", helper_nodes.interrupt, OWN | CLOUD, EXACT),
    # assets
    _asset("GET", "/api/assets", assets.list_assets, OWN | CACHE, ASSETS),
    _asset("POST", "/api/assets", assets.post_asset, OWN | CLOUD, ASSET_UPLOADS),
    _asset("GET", f"/api/assets/{assets.ID}", assets.get_asset, OWN, ASSETS),
    _asset("PUT", f"/api/assets/{assets.ID}", assets.put_asset, OWN, SAME),
    _asset("DELETE", f"/api/assets/{assets.ID}", assets.delete_asset, OWN, SAME),
    _asset(
        "GET",
        f"/api/assets/{assets.ID}/content",
        assets.get_content,
        OWN | CACHE | CLOUD,
        ASSET_FILES,
    ),
    _asset("POST", f"/api/assets/{assets.ID}/tags", assets.add_tags, OWN, SAME),
    _asset("DELETE", f"/api/assets/{assets.ID}/tags", assets.remove_tags, OWN, SAME),
    _asset("POST", "/api/assets/from-hash", assets.post_from_hash, OWN, ASSET_UPLOADS),
    _asset("HEAD", "/api/assets/hash/{hash}", assets.head_hash, OWN, ASSET_UPLOADS),
    _asset("GET", "/api/assets/tags/refine", assets.refine_tags, OWN | CACHE, ASSETS),
    _asset("GET", "/api/tags", assets.list_tags, OWN, ASSETS),
    _asset("POST", "/api/assets/seed", assets.post_seed, OWN | CACHE, ASSET_SCANS),
    _asset("GET", "/api/assets/seed/status", assets.get_seed_status, CONSTANT, ASSET_SCANS),
    _asset("POST", "/api/assets/seed/cancel", assets.cancel_seed, CONSTANT, ASSET_SCANS),
    _asset("POST", "/api/assets/prune", assets.prune, CONSTANT, ASSET_SCANS),
    _asset("POST", "/api/assets/export", assets.post_export, OWN, ASSET_EXPORTS),
    _asset("GET", "/api/assets/exports/{name}", assets.get_export, OWN, ASSET_EXPORTS),
    _asset("GET", "/api/tasks/{id}", assets.get_task, OWN, ASSET_EXPORTS),
    _asset("POST", "/api/assets/download", assets.not_here, CONSTANT, NO_IMPORTS),
    _asset("POST", "/api/assets/import", assets.not_here, CONSTANT, NO_IMPORTS),
    _asset("GET", "/api/assets/remote-metadata", assets.not_here, CONSTANT, NO_IMPORTS),
    _off("*", "/api/assets", assets.disabled, CONSTANT, NO_ASSETS),
    _off("*", "/api/assets/{rest:.*}", assets.disabled, CONSTANT, NO_ASSETS),
    _off("*", "/api/tags", assets.disabled, CONSTANT, NO_ASSETS),
    _off("*", "/api/tasks/{id}", assets.disabled, CONSTANT, NO_ASSETS),
    # the web interface
    _only(
        "GET",
        "/templates/{path:.*}",
        web_interface.get_template,
        PACKAGE | CACHE,
        TEMPLATE_PICTURES,
    ),
    _only("GET", "/docs/{path:.*}", web_interface.get_docs, PACKAGE, WITHOUT_PACKAGES),
    _only("GET", r"/{path:(?!internal\b).*}", web_interface.get_file, PACKAGE, WITHOUT_PACKAGES),
)


def of_clients(*, apart: bool, helpers: bool, assets: bool) -> list[Route]:
    """The routes of the clients' listener, with or without an admin listener beside it, those of
    node packs, and those of assets."""
    return [
        route
        for route in ROUTES
        if not (apart and route.apart)
        and (helpers or not route.helper)
        and route.assets in (None, assets)
    ]


def of_admins() -> list[Route]:
    """The routes of the admin listener."""
    return [route for route in ROUTES if route.apart or f"{route.path}/".startswith("/proxy/")]


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Put routes into the application."""
    for route in routes:
        handler = assets.nested(route.handler) if route.assets else route.handler
        for path in (route.path, f"/api{route.path}") if route.twin else (route.path,):
            if route.method == "GET":
                app.router.add_get(path, handler, allow_head=True)
            elif route.method == "*":  # one by one, since aiohttp-cors takes no route for all
                app.router.add_get(path, handler, allow_head=True)
                for method in ("POST", "PUT", "PATCH", "DELETE"):
                    app.router.add_route(method, path, handler)
            else:
                app.router.add_route(route.method, path, handler, expect_handler=route.expects)
