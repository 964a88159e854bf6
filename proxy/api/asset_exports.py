"""Exports of assets: begun by a request, followed as a task, downloaded from `/view`."""

from __future__ import annotations

from urllib.parse import urlencode

from aiohttp import web

from proxy.api import answers
from proxy.api.assets import nested, read_body, service
from proxy.api.services import member_of
from proxy.translate.asset_query import AssetError
from proxy.translate.exports import read_export, read_name


@nested
async def post_export(request: web.Request) -> web.Response:
    """Begin an export."""
    wanted = read_export(await read_body(request))
    id_ = await service(request).exports.begin(member_of(request), wanted)
    answer = {"task_id": id_, "status": "created", "message": "The export has begun."}
    return answers.json(answer, 202)


@nested
async def get_task(request: web.Request) -> web.Response:
    """How far an export is."""
    id_ = request.match_info["id"].lower()
    return answers.json(await service(request).exports.task(member_of(request), id_))


@nested
async def get_export(request: web.Request) -> web.Response:
    """Where an archive is downloaded."""
    name = read_name(request.match_info["name"])
    if await service(request).exports.archive(member_of(request), name) is None:
        raise AssetError("EXPORT_NOT_FOUND", "There is no such export.", kind="not_found")
    query = urlencode({"filename": name, "type": "temp", "subfolder": "exports"})
    return answers.json({"url": f"/api/view?{query}"})
