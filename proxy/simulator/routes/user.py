"""The user, the settings and the user's files."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from proxy.simulator.account import SimulatedUserFile
from proxy.simulator.call import Call, RouteAccess, SimulatedRoute, answer
from proxy.simulator.errors import Refusal, bad_request, not_found
from proxy.translate import codec


async def user(call: Call) -> web.Response:
    """Answer `GET /api/user`."""
    return answer({"id": call.account.user_id, "status": "active"})


async def users(_call: Call) -> web.Response:
    """Answer `GET /api/users`."""
    return answer({"storage": "server", "migrated": True})


async def settings(call: Call) -> web.Response:
    """Answer `GET /api/settings`."""
    return answer(call.account.settings)


async def change_settings(call: Call) -> web.Response:
    """Answer `POST /api/settings`, of any content type: the settings as they are then."""
    call.account.settings.update(await call.json(dict[str, Any]))
    return answer(call.account.settings)


async def setting(call: Call) -> web.Response:
    """Answer `GET /api/settings/{id}`: wrapped, 404 if it is not set."""
    name = call.path("id")
    if name not in call.account.settings:
        raise not_found("setting not found")
    return answer({"value": call.account.settings[name]})


async def change_setting(call: Call) -> web.Response:
    """Answer `POST /api/settings/{id}`."""
    try:
        value = codec.loads(await call.body())
    except ValueError:
        raise bad_request("the body must be JSON") from None
    call.account.settings[call.path("id")] = value
    return answer({"value": value})


async def files(call: Call) -> web.Response:
    """Answer `GET /api/userdata`: always objects; `split` and `full_info` have no effect."""
    query = call.request.query
    folder = query.get("dir", "")
    if call.switches.userdata_dir_slash and not folder.endswith("/"):
        raise Refusal(400, "dir is required and must end with a slash")
    folder = folder.rstrip("/")
    prefix = f"{folder}/" if folder else ""
    recursive = query.get("recurse", "").lower() == "true"
    return answer(
        [
            _described(call, path.removeprefix(prefix), file)
            for path, file in sorted(call.account.userdata.items())
            if path.startswith(prefix) and (recursive or "/" not in path.removeprefix(prefix))
        ]
    )


async def file(call: Call) -> web.Response:
    """Answer `GET /api/userdata/{file}`."""
    headers = {"Content-Type": "application/octet-stream"}
    return web.Response(body=_file(call, call.path("file")).data, headers=headers)


async def write_file(call: Call) -> web.Response:
    """Answer `POST /api/userdata/{file}`: always answers with the object."""
    path = _path(call.path("file"))
    overwrite = call.request.query.get("overwrite", "true").lower() != "false"
    if not overwrite and path in call.account.userdata:
        raise Refusal(409, "file already exists")
    written = call.account.userdata[path] = SimulatedUserFile(await call.body())
    return answer(_described(call, path, written))


async def delete_file(call: Call) -> web.Response:
    """Answer `DELETE /api/userdata/{file}`."""
    path = call.path("file")
    _file(call, path)
    del call.account.userdata[path]
    return web.Response(status=204)


async def move_file(call: Call) -> web.Response:
    """Answer `POST /api/userdata/{file}/move/{dest}`."""
    source, target = call.path("file"), _path(call.path("dest"))
    moved = _file(call, source)
    overwrite = call.request.query.get("overwrite", "true").lower() != "false"
    if not overwrite and target in call.account.userdata:
        raise Refusal(409, "file already exists")
    del call.account.userdata[source]
    call.account.userdata[target] = moved
    moved.modified = time.time()
    return answer(_described(call, target, moved))


def _path(path: str) -> str:
    if path.startswith("/") or re.search(r"(^|/)\.\.(/|$)", path):
        raise Refusal(400, "invalid file name")
    return path


def _file(call: Call, path: str) -> SimulatedUserFile:
    found = call.account.userdata.get(path)
    if found is None:
        raise Refusal(404, "file not found")
    return found


def _described(call: Call, path: str, file: SimulatedUserFile) -> dict[str, Any]:
    modified: int | float | str = int(file.modified * 1000)
    if call.switches.userdata_modified == "s":
        modified = file.modified
    elif call.switches.userdata_modified == "iso":
        modified = datetime.fromtimestamp(file.modified, UTC).isoformat()
    return {"path": path, "size": len(file.data), "modified": modified}


ROUTES = [
    SimulatedRoute("GET", "/api/user", user),
    SimulatedRoute("GET", "/api/users", users),
    SimulatedRoute("GET", "/api/settings", settings),
    SimulatedRoute("POST", "/api/settings", change_settings),
    SimulatedRoute("GET", "/api/settings/{id}", setting),
    SimulatedRoute("POST", "/api/settings/{id}", change_setting),
    SimulatedRoute("GET", "/api/userdata", files, RouteAccess.PAID),
    SimulatedRoute("GET", "/api/userdata/{file}", file, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/userdata/{file}", write_file, RouteAccess.PAID),
    SimulatedRoute("DELETE", "/api/userdata/{file}", delete_file, RouteAccess.PAID),
    SimulatedRoute("POST", "/api/userdata/{file}/move/{dest}", move_file, RouteAccess.PAID),
]
