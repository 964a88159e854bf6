"""`/internal`: the log, and what the web interface asks about folders. There is no `/api` twin."""

from __future__ import annotations

import shutil

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.services import member_of, of
from proxy.translate.errors import LocalError
from proxy.translate.names import TYPES


async def get_log(request: web.Request) -> web.Response:
    """The last lines of the proxy's log that concern the member, as one JSON string."""
    lines = of(request).journal.lines(member_of(request))
    return answers.json("".join(f"{line['t']} - {line['m']}" for line in lines))


async def get_log_lines(request: web.Request) -> web.Response:
    """The same lines one by one, and the size of the terminal."""
    size = shutil.get_terminal_size()
    return answers.json(
        {
            "entries": of(request).journal.lines(member_of(request)),
            "size": {"cols": size.columns, "rows": size.lines},
        }
    )


async def subscribe(request: web.Request) -> web.Response:
    """Send new lines to the websocket of a `clientId` (`enabled`), or no more."""
    body = await bodies.read_json(request)
    client_id = body.get("clientId") if isinstance(body, dict) else None
    if not isinstance(client_id, str) or "enabled" not in body:
        raise LocalError(
            400,
            "invalid_body",
            'The request body must be a JSON object with "clientId", a string, and "enabled".',
        )
    journal, member = of(request).journal, member_of(request)
    if body["enabled"]:
        journal.subscribe(member, client_id)
    else:
        journal.unsubscribe(member, client_id)
    return answers.empty()


async def get_folders(request: web.Request) -> web.Response:
    """Where models of each kind are, in the cloud's words."""
    folders = await of(request).catalogue.model_folders_in_detail()
    return answers.json({folder["name"]: folder.get("folders", []) for folder in folders})


async def get_files(request: web.Request) -> web.Response:
    """The names of the member's files in a folder, the newest first; hidden ones are left out."""
    type_ = request.match_info["type"]
    if type_ not in TYPES:
        return answers.job_error("Invalid directory type")
    records = reversed(of(request).files.records(member_of(request), type_))
    newest_first = sorted(records, key=lambda record: -record.modified)
    return answers.json(
        [
            record.filename
            for record in newest_first
            if not record.subfolder and not record.filename.startswith(".")
        ]
    )
