"""A job as its page needs it: how far it is, its last preview, and the workflow that was sent."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from proxy.admin.gallery import named_job
from proxy.admin.schema.jobs import RunShown, SentWorkflow
from proxy.api import bodies
from proxy.api.bodies import Encoded, JsonAnswer, encoded
from proxy.api.content import content_headers, filename_parameter
from proxy.api.jobs import examined
from proxy.api.keys import JOBS
from proxy.jobs.engine_calls import RunFound
from proxy.jobs.models import JobRecord
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError
from proxy.translate.prompts import interface_workflow

#: Characters of the name of a workflow's file.
_MAX_NAME = 80

_NOT_RUNNING: RunFound = {"progress": None, "remaining": None, "node": None, "nodes": {}}


async def get_run(request: web.Request) -> JsonAnswer[RunShown]:
    """Return how far a running job is, by `member` and `id`, with its nodes.

    `{"progress", "remaining", "node", "nodes": {ID: {"state", "value", "max", "began", "ran"}},
    "preview"}`: `progress` from 0 to 1, `remaining` in ms or null, times in ms since 1970, `node`
    the one that runs. Nodes that have not begun are left out. All is null of a job that does not
    run.
    """
    run = request.app[JOBS].run(JobKey(*named_job(request)))
    return bodies.json({**(run.found or _NOT_RUNNING), "preview": run.preview or None})


async def get_preview(request: web.Request) -> web.Response:
    """Return the last preview of a running job by `member` and `id`; 204 if there is none."""
    run = request.app[JOBS].run(JobKey(*named_job(request)), with_preview=True)
    if not run.image:
        return bodies.empty(204)  # it may have ended since its page was told of the preview
    headers = content_headers(run.image_type)
    headers["Cache-Control"] = "no-store"
    return web.Response(body=run.image, headers=headers)


async def get_workflow(request: web.Request) -> JsonAnswer[SentWorkflow]:
    """Return what a job was sent with, by `member` and `id`, or a file with its workflow.

    Without `format` it is `{"prompt", "extra_data", "workflow"}`, where `workflow` is that of the
    web interface, or null. With `format=interface` or `format=api` it is a file with the workflow
    or the graph alone.
    """
    member, id_ = named_job(request)
    form = request.query.get("format", "")
    if form not in ("", "interface", "api"):
        raise LocalError("invalid_format", "format must be interface or api.")
    record = await request.app[JOBS].job(member, id_)
    if record is None:
        raise LocalError("unknown_job", "There is no such job.", kind="not_found")
    body = await examined(request, record, partial(_workflow_json, form))
    if body is None:
        raise LocalError(
            "no_workflow",
            "The program that submitted this job sent no workflow of the web interface; download "
            "the graph in API format instead.",
            kind="not_found",
        )
    answer = bodies.json_of(body)
    if form:
        name = "workflow" if form == "interface" else "workflow-api"
        parameter = filename_parameter(f"{name}-{id_[:_MAX_NAME].replace('/', '_')}.json")
        answer.headers["Content-Disposition"] = f"attachment; {parameter}"
    return answer


def _workflow_json(form: str, record: JobRecord) -> Encoded[SentWorkflow] | None:
    """Return what a job was sent with in one of the forms of `get_workflow`, `None` if it has no
    workflow of the web interface."""
    sent = record.workflow()
    workflow = interface_workflow(sent["extra_data"])
    if not form:
        # The socket of the program that sent it is not the one that sends it again.
        extra_data = {key: value for key, value in sent["extra_data"].items() if key != "client_id"}
        return encoded({"prompt": sent["prompt"], "extra_data": extra_data, "workflow": workflow})
    file: Any = sent["prompt"] if form == "api" else workflow
    return None if file is None else encoded(file)
