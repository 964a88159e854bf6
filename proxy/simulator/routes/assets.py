"""`/api/assets`: the account's files, to look at and to delete."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from proxy.simulator import uploads
from proxy.simulator.assets import SimulatedAsset
from proxy.simulator.call import Call, SimulatedRoute, answer
from proxy.simulator.errors import bad_request, not_found
from proxy.simulator.routes.files import read_form, redirect

SORTS = ("created_at", "updated_at", "name", "size", "last_access_time")


async def show_all(call: Call) -> web.Response:
    """Answer `GET /api/assets`."""
    query = call.request.query
    limit = call.number("limit", 20, 1, 500)
    offset = call.number("offset", 0, 0)
    include, exclude = (_tags(query.get(name, "")) for name in ("include_tags", "exclude_tags"))
    contains = query.get("name_contains", "").lower()
    assets = [
        asset
        for asset in call.account.library
        if include <= set(asset.tags)
        and not exclude & set(asset.tags)
        and contains in asset.name.lower()
    ]
    sort = call.choice("sort", SORTS)
    keys = {"name": lambda asset: asset.name, "size": lambda asset: asset.size}
    assets.sort(
        key=keys.get(sort, lambda asset: asset.created),
        reverse=call.choice("order", ("desc", "asc")) == "desc",
    )
    page = assets[offset : offset + limit]
    return answer(
        {
            "assets": [_shown(asset) for asset in page],
            "total": len(assets),
            "has_more": offset + limit < len(assets),
        }
    )


async def create(call: Call) -> web.Response:
    """Answer `POST /api/assets`: a file of any kind, for every loader; 200 for bytes that are
    known."""
    if not call.switches.asset_uploads:
        raise not_found("not found")
    form = await read_form(call, "file")
    if form.data is None:
        raise bad_request("the field file is missing")
    try:
        tags = msgspec.json.decode(form.fields.get("tags", "[]"), type=list[str])
    except msgspec.MsgspecError:
        raise bad_request("tags must be the JSON of a list of texts") from None
    name = form.fields.get("name") or form.filename
    known = set(call.account.library)
    asset = uploads.take(
        call.account,
        call.world.storage,
        call.switches,
        form.data,
        name,
        tags=tuple(tags),
        uploaded=False,
    )
    new = all(other.digest != asset.digest for other in known)
    return answer({**_shown(asset), "created_new": new}, 201 if new else 200)


async def show(call: Call) -> web.Response:
    """Answer `GET /api/assets/{id}`."""
    return answer(_shown(_asset(call)))


async def content(call: Call) -> web.Response:
    """Answer `GET /api/assets/{id}/content`: a redirect like that of `/api/view`."""
    asset = _asset(call)
    disposition = call.choice("disposition", ("inline", "attachment"))
    attached = disposition == "attachment"
    return redirect(call, asset.cloud_name, filename=asset.name if attached else None)


async def known_hash(call: Call) -> web.Response:
    """Answer `HEAD /api/assets/hash/{hash}`: 200 or 404, without a body."""
    wanted = call.path("hash")
    if not wanted.startswith("blake3:"):
        raise bad_request("the hash must begin with blake3:")
    digest = wanted.removeprefix("blake3:")
    if not any(asset.digest == digest for asset in call.account.library):
        raise not_found()
    return web.Response()


async def delete(call: Call) -> web.Response:
    """Answer `DELETE /api/assets/{id}`."""
    call.account.library.remove(_asset(call))
    return web.Response(status=204)


async def show_tags(call: Call) -> web.Response:
    """Answer `GET /api/tags`."""
    counts: dict[str, int] = {}
    for asset in call.account.library:
        for tag in asset.tags:
            counts[tag] = counts.get(tag, 0) + 1
    tags = [{"name": name, "count": count} for name, count in sorted(counts.items())]
    return answer({"tags": tags, "total": len(tags), "has_more": False})


def _tags(text: str) -> set[str]:
    tags = {tag for tag in text.split(",") if tag}
    if len(tags) > 100:
        raise bad_request("at most 100 tags")
    return tags


def _asset(call: Call) -> SimulatedAsset:
    asset = call.account.library.get(call.path("id"))
    if asset is None:
        raise not_found("asset not found")
    return asset


def _shown(asset: SimulatedAsset) -> dict[str, Any]:
    return {
        "id": asset.id,
        "name": asset.name,
        "hash": f"blake3:{asset.digest}",
        "asset_hash": f"blake3:{asset.digest}",
        "size": asset.size,
        "mime_type": asset.media_type,
        "tags": list(asset.tags),
        "user_metadata": {},
        "loader_path": asset.cloud_name,
        "display_name": asset.name,
        "job_id": asset.job_id,
        "prompt_id": asset.job_id,
        "preview_id": None,
        "created_at": asset.created_at,
        "updated_at": asset.created_at,
        "last_access_time": asset.created_at,
        "is_immutable": False,
    }


ROUTES = [
    SimulatedRoute("GET", "/api/assets", show_all),
    SimulatedRoute("POST", "/api/assets", create),
    SimulatedRoute("HEAD", "/api/assets/hash/{hash}", known_hash),
    SimulatedRoute("GET", "/api/assets/{id}", show),
    SimulatedRoute("DELETE", "/api/assets/{id}", delete),
    SimulatedRoute("GET", "/api/assets/{id}/content", content),
    SimulatedRoute("GET", "/api/tags", show_tags),
]
