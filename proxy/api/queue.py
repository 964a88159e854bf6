"""`/queue` and `/interrupt`: what waits and runs, and how a client ends it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.authenticator import submitter_of
from proxy.api.services import member_of, of
from proxy.translate.errors import LocalError


async def get_queue(request: web.Request) -> web.Response:
    """The jobs that run and those that wait."""
    return answers.ready(of(request).jobs.queue_json(member_of(request)))


async def post_queue(request: web.Request) -> web.Response:
    """Take waiting jobs out of the queue: all (`clear`) or some (`delete`)."""
    clear, delete = removals(await bodies.read_object(request))
    jobs, member, books = of(request).jobs, member_of(request), of(request).books
    if clear:
        await jobs.clear_pending(member)
        books.note(request, "clear_queue")
    if delete:
        await jobs.delete_pending(member, delete)
        books.note(request, "delete", jobs=delete)
    return answers.empty()


async def post_interrupt(request: web.Request) -> web.Response:
    """Stop what runs: one job, or the caller's own when the body names none or is not JSON.

    The caller's own are those of the body's `client_id`, or else those that the same program has
    submitted; where there is none, it is the job that runs longest.
    """
    try:
        body = await bodies.read_json(request)
    except bodies.NotJsonError:
        body = {}
    if not isinstance(body, dict):
        raise LocalError(
            400,
            "invalid_body",
            f"The request body must be a JSON object or empty, not {bodies.kind(body)}.",
        )
    prompt_id = body.get("prompt_id")
    jobs, member, books = of(request).jobs, member_of(request), of(request).books
    if not prompt_id:
        client_id = body.get("client_id")
        await jobs.interrupt(
            member,
            None,
            submitter=submitter_of(request),
            client_id=client_id if isinstance(client_id, str) else None,
        )
        books.note(request, "interrupt")
    elif isinstance(prompt_id, str):
        await jobs.interrupt(member, prompt_id)
        books.note(request, "interrupt", job=prompt_id)
    return answers.empty()


def removals(body: dict[str, Any]) -> tuple[bool, list[str]]:
    """What the body of `POST /queue` or `POST /history` asks for: all, and some ids.

    ComfyUI goes through whatever can be gone through (the letters of a string, the keys of an
    object) and ignores what is no id. Raises `LocalError` (400) for the rest.
    """
    ids: object = body.get("delete", [])
    if not isinstance(ids, list | str | dict):
        raise LocalError(
            400,
            "invalid_delete",
            "delete must be a list of prompt ids.",
            details=f"It is {bodies.kind(ids)}.",
        )
    return bool(body.get("clear")), [one for one in ids if isinstance(one, str)]
