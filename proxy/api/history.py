"""`/history`: the member's ended jobs."""

from __future__ import annotations

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.queue import removals
from proxy.api.services import member_of, of
from proxy.translate.errors import LocalError


async def get_history(request: web.Request) -> web.Response:
    """All entries, or those that `max_items` and `offset` ask for."""
    query = request.query
    body = of(request).jobs.history_json(
        member_of(request),
        max_items=_integer(query.get("max_items"), "max_items"),
        offset=_integer(query.get("offset"), "offset"),
    )
    return answers.ready(body)


async def get_history_entry(request: web.Request) -> web.Response:
    """One entry by its id, or `{}`."""
    prompt_id = request.match_info["prompt_id"]
    return answers.ready(of(request).jobs.history_entry_json(member_of(request), prompt_id))


async def post_history(request: web.Request) -> web.Response:
    """Forget all entries (`clear`) or some (`delete`)."""
    clear, delete = removals(await bodies.read_object(request))
    jobs, member = of(request).jobs, member_of(request)
    if clear:
        await jobs.clear_history(member)
    if delete:
        await jobs.delete_history(member, delete)
    return answers.empty()


def _integer(value: str | None, name: str) -> int | None:
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise LocalError(
            400, f"invalid_{name}", f"{name} must be an integer.", details=f"It is {value[:40]!r}."
        ) from None
