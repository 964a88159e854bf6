"""`/settings`: what the web interface keeps for a member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.services import member_of, of
from proxy.translate import codec
from proxy.translate.errors import LocalError


async def get_settings(request: web.Request) -> web.Response:
    """All settings."""
    return answers.json(await of(request).userdata.settings(member_of(request)))


async def get_setting(request: web.Request) -> web.Response:
    """The bare value of one setting, or `null`."""
    name = request.match_info["id"]
    return answers.json(await of(request).userdata.setting(member_of(request), name))


async def post_settings(request: web.Request) -> web.Response:
    """Set some settings and keep the others."""
    body = await bodies.read_json(request)
    if not isinstance(body, dict):
        raise LocalError(
            400,
            "invalid_body",
            f"The settings must be a JSON object of names and values, not {bodies.kind(body)}.",
        )
    return await _change(request, body)


async def post_setting(request: web.Request) -> web.Response:
    """Set one setting to the body, any JSON."""
    value = await bodies.read_json(request)
    return await _change(request, {request.match_info["id"]: value})


async def _change(request: web.Request, changes: Mapping[str, Any]) -> web.Response:
    member, userdata = member_of(request), of(request).userdata
    stored, _ = await userdata.usage(member)
    before = await userdata.settings(member) if stored else {}
    replaced = {name: before[name] for name in changes if name in before}
    count, less = len(codec.dump_bytes(changes)), len(codec.dump_bytes(replaced))
    with of(request).books.storing(member, count, stored=stored, replaced=less):
        await userdata.change_settings(member, changes)
    return answers.empty()
