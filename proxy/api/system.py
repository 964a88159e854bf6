"""Routes about the server and its catalog.

They are: features and the machine; `/healthz` and `/readyz` for monitoring, which ComfyUI has not;
`/internal` with the log and folders, without `/api` twins; the web interface at `/`, or a page of
our own; and the catalog, `/object_info` and `/models`.
"""

from __future__ import annotations

import os
import shutil
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from proxy.api import bodies, request_bodies
from proxy.api.content import content_headers
from proxy.api.extension import SCRIPT_PATH, has_nodes
from proxy.api.holding import in_turn
from proxy.api.keys import CATALOG, FILES, INTERFACE, JOURNAL, READINESS, features
from proxy.api.requests import connection_of, member_of
from proxy.api.sending import delivering, send_list
from proxy.api.web_interface import packaged, within
from proxy.catalog.bodies import Coding
from proxy.catalog.file_lists import Listing
from proxy.translate import COMFYUI, DEPLOYED_AS, FRONTEND, PYTORCH, TEMPLATES
from proxy.translate.errors import LocalError, PlainError
from proxy.translate.names import TYPES
from proxy.translate.reading import field_of

GIBIBYTE = 1024**3
#: Maximum length of a `clientId` that subscribes to log lines.
MAX_CLIENT_ID = 1024

#: Memory of the cloud's GPUs, by Comfy Cloud's own description.
VRAM_BYTES = 96 * GIBIBYTE


async def get_features(request: web.Request) -> web.Response:
    """Return the feature flags."""
    return bodies.json(features(request.app))


async def get_system_stats(request: web.Request) -> web.Response:
    """Return this machine's memory, and a GPU that represents the cloud's."""
    total, free = memory()
    interface = request.app[INTERFACE]
    templates = interface.templates_version or TEMPLATES
    return bodies.json(
        {
            "system": {
                "os": sys.platform,
                "ram_total": total,
                "ram_free": free,
                "comfyui_version": COMFYUI,
                "required_frontend_version": interface.frontend_version or FRONTEND,
                "installed_templates_version": templates,
                "required_templates_version": templates,
                "comfy_package_versions": [],
                "python_version": sys.version,
                "pytorch_version": PYTORCH,
                "embedded_python": False,
                "deploy_environment": DEPLOYED_AS,
                "argv": ["main.py"],
            },
            "devices": [
                {
                    "name": "cuda:0 Comfy Cloud : native",
                    "type": "cuda",
                    "index": 0,
                    "vram_total": VRAM_BYTES,
                    "vram_free": VRAM_BYTES,
                    "torch_vram_total": 0,
                    "torch_vram_free": 0,
                }
            ],
        }
    )


def memory() -> tuple[int, int]:
    """Return this machine's total and free memory in bytes, 0 if that is unknown."""
    if sys.platform == "win32":
        return 0, 0
    values = []
    for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"):
        try:
            values.append(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
        except (ValueError, OSError):
            values.append(0)
    return values[0], values[1]


async def post_free(request: web.Request) -> web.Response:
    """Accept the request and do nothing."""
    request_bodies.as_object(await request_bodies.read_json(request))
    return bodies.empty()


async def get_users(_: web.Request) -> web.Response:
    """Return the users of a ComfyUI without --multi-user."""
    return bodies.json({"storage": "server", "migrated": True})


async def get_empty_object(_: web.Request) -> web.Response:
    """Return an empty object, as a ComfyUI without custom nodes."""
    return bodies.json({})


async def get_nothing(_: web.Request) -> web.Response:
    """Return 404 without a body, as ComfyUI for a file without metadata."""
    return bodies.empty(404)


async def get_health(_: web.Request) -> web.Response:
    """Return `{"status": "ok"}`, which shows that the process answers. Makes no calls."""
    return bodies.json({"status": "ok"})


async def get_leader(_: web.Request) -> web.Response:
    """Return 200 `{"leader": true}`; a standby answers 503. For load balancers."""
    return bodies.json({"leader": True})


async def get_readiness(request: web.Request) -> web.Response:
    """Return whether jobs are accepted, from recent checks.

    The answer is 200 `{"status": "ready", "engine": "active", "checks": {"store": "ok", "key":
    "ok", "socket": "ok"}}`, or 503 with the status `not ready`, a sentence instead of `ok` for each
    check that failed, and the first of these sentences as `reason`. Without a token there are only
    `status` and `engine`. With several accounts `accounts` has `key` and `socket` of each; one
    account that can be used is enough. While outputs cannot be written to the output directory, the
    status is `degraded`, with 200, and `checks` has `outputs`. `engine` is `standby` of a process
    that passes requests on to the leader. Checks are a few seconds old, or more if the cloud
    answers slowly.
    """
    report = await request.app[READINESS].report()
    status = "degraded" if report.problem is not None else "ready"
    body: dict[str, Any] = {"status": status, "engine": "active"}
    if report.reason is not None:
        body["status"] = "not ready"
    if connection_of(request).admission is not None:
        if report.reason is not None:
            body["reason"] = report.reason
        body["checks"] = report.checks
    return bodies.json(body, 200 if report.reason is None else 503)


async def get_log(request: web.Request) -> web.Response:
    """Return the last log lines that concern the member, as one JSON string."""
    lines = request.app[JOURNAL].lines(member_of(request))
    return bodies.json("".join(f"{line['t']} - {line['m']}" for line in lines))


async def get_log_lines(request: web.Request) -> web.Response:
    """Return the same lines as a list, and the size of the terminal."""
    size = shutil.get_terminal_size()
    return bodies.json(
        {
            "entries": request.app[JOURNAL].lines(member_of(request)),
            "size": {"cols": size.columns, "rows": size.lines},
        }
    )


async def subscribe(request: web.Request) -> web.Response:
    """Start (`enabled`) or stop sending new log lines to the websocket of a `clientId`."""
    body = await request_bodies.read_json(request)
    client_id = field_of(body, "clientId")
    if not isinstance(client_id, str) or "enabled" not in body:
        raise LocalError(
            "invalid_body",
            'The request body must be a JSON object with "clientId", a string, and "enabled".',
        )
    if len(client_id) > MAX_CLIENT_ID:
        raise LocalError(
            "client_id_too_long",
            f"`clientId` has {len(client_id):,} characters; the maximum is {MAX_CLIENT_ID}. Send "
            "that of your websocket.",
        )
    request.app[JOURNAL].subscribe(member_of(request), client_id, wanted=bool(body["enabled"]))
    return bodies.empty()


async def get_folders(request: web.Request) -> web.Response:
    """Return the folders of each kind of models, as of the cloud."""
    folders = await request.app[CATALOG].model_folders_in_detail()
    return bodies.json({folder["name"]: folder.get("folders", []) for folder in folders})


async def get_files(request: web.Request) -> web.StreamResponse:
    """Return the names of the member's files in a folder, the newest first, without hidden ones."""
    type_ = request.match_info["type"]
    if type_ not in TYPES:
        raise PlainError("Invalid directory type")
    records = await request.app[FILES].namespace.records(member_of(request), type_)

    def listed() -> list[str]:
        newest_first = sorted(records, key=attrgetter("modified", "path"), reverse=True)
        return [
            record.filename
            for record in newest_first
            if not record.subfolder and not record.filename.startswith(".")
        ]

    return await send_list(request, await in_turn(request, listed), str)


# --- the web interface --------------------------------------------------------------------------

_PAGE_HEADERS = {"Cache-Control": "no-store, must-revalidate", "Pragma": "no-cache", "Expires": "0"}

_OWN_PAGE = Path(__file__).with_name("welcome.html").read_bytes()


async def get_root(request: web.Request) -> web.StreamResponse:
    """Return the web interface, or a page about this server that says why jobs cannot run."""
    page = within(request.app[INTERFACE].frontend, "index.html")
    if page is None or not await has_nodes(request):
        return web.Response(body=_OWN_PAGE, content_type="text/html", headers=_PAGE_HEADERS)
    return web.FileResponse(page, headers=_PAGE_HEADERS)


async def get_extensions(request: web.Request) -> web.Response:
    """Return the scripts of the web interface, and that of our extension."""
    scripts = request.app[INTERFACE].extensions()
    return bodies.json([*scripts, SCRIPT_PATH] if scripts else [])


async def get_docs(request: web.Request) -> web.StreamResponse:
    """Return a page of the nodes' documentation."""
    return packaged(within(request.app[INTERFACE].docs, request.match_info["path"]))


async def get_file(request: web.Request) -> web.StreamResponse:
    """Return a file of the web interface, or 404; this is the route of every other GET."""
    if request.raw_path.startswith("//"):  # ComfyUI's answer has a text then
        return bodies.text("404: Not Found", 404)
    return packaged(within(request.app[INTERFACE].frontend, request.match_info["path"]))


# --- the catalog ----------------------------------------------------------------------------------

#: The codings of `object_info`, the preferred one first.
_CODINGS: tuple[Coding, ...] = ("zstd", "gzip")


async def get_object_info(request: web.Request) -> web.StreamResponse:
    """Return all node classes, with the member's files in the lists of the input folder.

    Compressed if the client accepts it. The entity tag is that of the compressed bytes.
    """
    coding = cast(Coding, bodies.coding(request.headers.getall("Accept-Encoding", ()), _CODINGS))
    member = member_of(request)
    body = await request.app[CATALOG].object_info(member, await _files(request), coding)
    headers = {"Etag": f'"{body.etag}"', "Vary": "Accept-Encoding"}
    if any(tag.value in ("*", body.etag) for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = bodies.JSON_TYPE
    if coding != bodies.IDENTITY:
        headers["Content-Encoding"] = coding
    response = web.StreamResponse(headers={**headers, "Content-Length": str(body.length)})
    async with delivering(request, response):
        if request.method != "HEAD":
            for piece in body.pieces:
                await response.write(piece)
    return response


async def get_node_class(request: web.Request) -> web.Response:
    """Return a node class, or `{}`."""
    name = request.match_info["node_class"]
    catalog, member = request.app[CATALOG], member_of(request)
    return bodies.ready(await catalog.node_class_json(member, name, await _files(request)))


async def get_model_folders(request: web.Request) -> web.Response:
    """Return the names of the model folders."""
    return bodies.json(await request.app[CATALOG].model_folders())


async def get_models(request: web.Request) -> web.Response:
    """Return the names of a folder's models; 404 without a body for an unknown folder."""
    folder = request.match_info["folder"]
    models = await request.app[CATALOG].models(member_of(request), folder)
    return bodies.empty(404) if models is None else bodies.json(models)


async def get_model_folders_in_detail(request: web.Request) -> web.Response:
    """Return the model folders with their paths and extensions."""
    return bodies.json(await request.app[CATALOG].model_folders_in_detail())


async def get_models_in_detail(request: web.Request) -> web.Response:
    """Return a folder's models in detail; 404 without a body for an unknown folder."""
    folder = request.match_info["folder"]
    models = await request.app[CATALOG].models_in_detail(member_of(request), folder)
    return bodies.empty(404) if models is None else bodies.json(models)


async def get_embeddings(request: web.Request) -> web.Response:
    """Return the names of the embeddings."""
    return bodies.json(await request.app[CATALOG].embeddings(member_of(request)))


async def get_model_preview(request: web.Request) -> web.Response:
    """Return the picture of a model; 404 without a body if there is none."""
    match = request.match_info
    try:
        index = int(match["path_index"])
    except ValueError:
        return bodies.empty(400)
    catalog, folder, name = request.app[CATALOG], match["folder"], match["filename"]
    models = await catalog.models(member_of(request), folder) or []
    if name not in models and name.removesuffix(".webp") not in models:
        return bodies.empty(404)
    picture = await catalog.extras.preview(folder, index, name) if index >= 0 else None
    if picture is None:
        return bodies.empty(404)
    body, type_ = picture
    headers = content_headers(type_, request.headers.get("Sec-Fetch-Dest"))
    return web.Response(body=body, headers=headers)


async def get_subgraphs(request: web.Request) -> web.Response:
    """Return the subgraphs that everybody has, without their contents."""
    return bodies.json(await request.app[CATALOG].extras.subgraphs())


async def get_subgraph(request: web.Request) -> web.Response:
    """Return a subgraph with its content as `data` (JSON as text); `null` for an unknown one."""
    return bodies.json(await request.app[CATALOG].extras.subgraph(request.match_info["id"]))


async def get_node_replacements(request: web.Request) -> web.Response:
    """Return the node classes that replace old ones."""
    return bodies.json(await request.app[CATALOG].extras.node_replacements())


async def _files(request: web.Request) -> Listing:
    return await request.app[FILES].namespace.listing(member_of(request), "input")
