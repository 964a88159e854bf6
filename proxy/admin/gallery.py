"""Jobs for people: `/proxy/api/jobs` and `thumbnail`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeGuard

import msgspec
from aiohttp import web

from proxy.admin.members import requested_member, require_admin
from proxy.admin.schema.jobs import (
    CostShown,
    EndedJobs,
    EndedJobShown,
    JobErrorShown,
    JobPage,
    NodeShown,
    OutputShown,
    PromptShown,
    TextShown,
)
from proxy.admin.state import describe
from proxy.api import bodies, request_bodies
from proxy.api.bodies import Encoded, JsonAnswer, encoded
from proxy.api.content import content_headers
from proxy.api.holding import in_turn
from proxy.api.jobs import examined
from proxy.api.keys import ACCOUNTING, CATALOG, FILES, HISTORY, JOBS
from proxy.api.requests import member_of, token_of
from proxy.costs.credits import to_credits
from proxy.costs.job_cost import Charge, JobCost
from proxy.files.conversions import THUMBNAIL
from proxy.jobs.engine_calls import JobSeen
from proxy.jobs.models import ENDS, OUTCOMES, JobRecord
from proxy.storage.history import MAX_FOUND
from proxy.storage.job_tables import HistoryEntry
from proxy.translate import codec, media_types, output_files
from proxy.translate.errors import LocalError
from proxy.translate.prompts import interface_workflow, prompt_texts
from proxy.translate.reading import field_of, list_of

#: The default size of a page, and the maximum length of a searched text and of a title.
PAGE, MAX_TEXT = 24, 100
#: Maximum number of nodes and of outputs of a job, and the maximum length of an error.
MAX_NODES, MAX_OUTPUTS, MAX_ERROR, MAX_TRACEBACK = 1000, 200, 4000, 20_000

#: How often a job is read if it ends meanwhile.
_MAX_READS = 3

#: Returns a node class, `None` for an unknown one.
Known = Callable[[str], Mapping[str, Any] | None]

_CURSOR = re.compile(r"([0-9]{1,15})\.([0-9]{1,15})", re.ASCII)


async def list_jobs(request: web.Request) -> JsonAnswer[EndedJobs]:
    """Return ended jobs, the newest first: of everybody or a `member`; members see their own.

    The query may have a `status` (`completed`, `failed`, `cancelled`), a text `q` to search for in
    label, id and member, a `limit` (24, at most 100) and, as `before`, the `next` of the previous
    page. The answer is `{"jobs": [...], "next": CURSOR or null}`.
    """
    query, member = request.query, requested_member(request)
    status = query.get("status") or None
    if status is not None and status not in ENDS:
        raise LocalError("invalid_status", f"status must be one of {', '.join(ENDS)}.")
    cursor = query.get("before") or None
    read = None if cursor is None else _CURSOR.fullmatch(cursor)
    if cursor is not None and read is None:
        raise LocalError("invalid_before", "before must be the `next` of the previous page.")
    limit = request_bodies.query_number(query, "limit", PAGE, 1, MAX_FOUND)
    history = request.app[HISTORY]
    rows = await history.search(
        member,
        states=() if status is None else {ENDS[status].value},  # type: ignore[index]
        text=query.get("q", "").strip()[:MAX_TEXT],
        before=None if read is None else (int(read[1]), int(read[2])),
        limit=limit,
    )
    return bodies.json_of(await in_turn(request, partial(_page_json, rows, limit)))


def _page_json(rows: Sequence[HistoryEntry], limit: int) -> Encoded[EndedJobs]:
    """Return a page of ended jobs; a full one has a next one."""
    following = f"{rows[-1].ended_at}.{rows[-1].order}" if len(rows) == limit else None
    return encoded({"jobs": list(map(_ended_shown, rows)), "next": following})


async def get_job(request: web.Request) -> JsonAnswer[JobPage]:
    """Return a job by its id (and `member`), live or ended, with its nodes, outputs and error.

    `nodes` are in the order in which they ran, with `began` and `ran` (ms) if these are known.
    `outputs` are numbered for their thumbnails, `texts` are those that nodes put out, and `prompts`
    those of the graph. `graph_only` is true if no workflow of the web interface was sent. `cost` is
    null until the job has ended.
    """
    member, id_ = named_job(request)
    jobs, history, known = request.app[JOBS], request.app[HISTORY], request.app[CATALOG].known
    for _ in range(_MAX_READS):
        record = await jobs.job(member, id_)
        if record is None:
            break
        row = await history.listed(member, id_)
        if row is not None and record.ended:
            return bodies.json(await examined(request, record, partial(_ended_job, known, row)))
        views = chain(jobs.overview(member).jobs, map(JobSeen, jobs.live()))
        view = next((view for view in views if view.job.key == (member, id_)), None)
        if row is None and view is not None:
            return bodies.json(await examined(request, record, partial(_live_job, known, view)))
    raise LocalError("unknown_job", "There is no such job.", kind="not_found")


def _live_job(known: Known, view: JobSeen, record: JobRecord) -> JobPage:
    """Return a live job with its nodes."""
    sent = record.workflow()
    return {
        **describe(view),  # type: ignore[typeddict-item]  # no keys of ended jobs
        "ended": None,
        "cost": None,
        "error": None,
        "outputs": [],
        "nodes": list(_nodes(sent["prompt"], {}, (), view.node)),
        "texts": [],
        "prompts": _prompts(known, sent),
        "graph_only": interface_workflow(sent["extra_data"]) is None,
    }


def _prompts(known: Known, sent: Mapping[str, Any]) -> list[PromptShown]:
    """Return the texts of the graph that the client sent."""
    return [
        {
            "node": prompt.node,
            "class_type": prompt.class_type,
            "input": prompt.input,
            "role": prompt.role,
            "text": prompt.text,
        }
        for prompt in prompt_texts(sent["prompt"], known)
    ]


def _ended_job(known: Known, row: HistoryEntry, record: JobRecord) -> JobPage:
    """Return an ended job with its nodes and outputs."""
    found, sent = record.described(), record.workflow()
    cached = {
        str(node)
        for type_, data in found["execution_status"].get("messages", ())
        if type_ == "execution_cached"
        for node in data.get("nodes", ())
    }
    times = codec.loads(row.node_times)
    error = found.get("execution_error") or {}
    failed = error.get("node_id")
    nodes = _nodes(sent["prompt"], times, cached, failed)
    outputs = islice(_outputs(found["outputs"]), MAX_OUTPUTS)
    whole = _ended_shown(row)
    if whole["error"] is not None:
        whole["error"]["traceback"] = _traceback(error)
    return {
        **whole,  # type: ignore[typeddict-item]  # no keys of live jobs
        "nodes": sorted(nodes, key=lambda node: (node["began"] is None, node["began"])),
        "outputs": [_output(number, *output) for number, output in enumerate(outputs)],
        "texts": list(islice(_output_texts(found["outputs"]), MAX_OUTPUTS)),
        "prompts": _prompts(known, sent),
        "graph_only": interface_workflow(sent["extra_data"]) is None,
    }


def _traceback(error: Mapping[str, Any]) -> str:
    """Return the end of an error's traceback, where the reason is."""
    lines = error.get("traceback")
    if isinstance(lines, list):
        lines = "".join(line for line in lines if isinstance(line, str))
    return lines.strip()[-MAX_TRACEBACK:] if isinstance(lines, str) else ""


async def get_thumbnail(request: web.Request) -> web.Response:
    """Return a small WebP of a job's picture: that of the number `output`, or the best one."""
    member, id_ = named_job(request)
    if "output" in request.query:
        number = request_bodies.query_number(request.query, "output", 0, 0, MAX_OUTPUTS - 1)
        job = await request.app[JOBS].job(member, id_)
        item = None
        if job is not None:
            item = await examined(request, job, partial(_file_of, number))
    else:
        row = await request.app[HISTORY].listed(member, id_)
        item = None if row is None else codec.loads(row.summary).get("preview_output")
    if not _is_picture(item):
        return bodies.empty(404)
    files = request.app[FILES]
    record = await files.find(
        member, str(item.get("type")), str(item.get("subfolder") or ""), str(item["filename"])
    )
    if record is None:
        return bodies.empty(404)
    picture = await files.convert(record, THUMBNAIL)
    if request.method != "HEAD":
        request.app[ACCOUNTING].served(member_of(request), len(picture), token_of(request))
    headers = content_headers(THUMBNAIL.media_type)
    headers["Cache-Control"] = "private, max-age=300"
    return web.Response(body=picture, headers=headers)


def _file_of(number: int, record: JobRecord) -> Mapping[str, Any] | None:
    """Return the item of the output file with a number."""
    found = islice(_outputs(record.outputs()), number, number + 1)
    return next((item for _, _, item in found), None)


def named_job(request: web.Request) -> tuple[str, str]:
    """Return the member of the query, and the id of the path or the query.

    Raises `LocalError` (403) for another's job.
    """
    member = request.query.get("member") or member_of(request)
    id_ = request.match_info.get("id") or request.query.get("id")
    if member != member_of(request):
        require_admin(request)
    if not id_:
        raise LocalError("invalid_id", "Name the job by its id.")
    return member, id_


def _ended_shown(row: HistoryEntry) -> EndedJobShown:
    summary, details = codec.loads(row.summary), codec.loads(row.details)
    preview = summary.get("preview_output")
    error = summary.get("execution_error")
    return {
        "id": row.prompt_id,
        "member": row.member,
        "label": row.label,
        "state": OUTCOMES.get(row.state, row.state),
        "account": details.get("account", ""),
        "created": row.created_at,
        "started": row.started_at,
        "ended": row.ended_at,
        "cost": shown_cost(msgspec.convert(details.get("cost", ()), tuple[Charge, ...])),
        "output_count": summary.get("outputs_count", 0),
        "media": None if preview is None else preview.get("mediaType"),
        "thumbnail": _is_picture(preview),
        "error": None if error is None else _error(error),
    }


def shown_cost(charges: tuple[Charge, ...]) -> CostShown:
    """Return what a job has cost or would cost, in parts."""
    cost = JobCost(charges)
    return {
        "credits": to_credits(cost.amount),
        "source": cost.source,
        "parts": [
            {
                "class": charge.node_class,
                "nodes": charge.nodes,
                "credits": None if charge.source == "unknown" else to_credits(charge.amount),
                "source": charge.source,
            }
            for charge in charges
        ],
    }


def _error(error: Mapping[str, Any]) -> JobErrorShown:
    return {
        "type": str(error.get("exception_type") or ""),
        "message": str(error.get("exception_message") or "").strip()[:MAX_ERROR],
        "node": str(error.get("node_id") or ""),
        "class": str(error.get("node_type") or ""),
    }


def _nodes(
    graph: Mapping[str, Any], times: Mapping[str, Any], cached: Any, marked: str | None
) -> Iterator[NodeShown]:
    """Yield the nodes of a graph; the `marked` one runs or has failed."""
    for id_, node in islice(graph.items(), MAX_NODES):
        if not isinstance(node, Mapping):
            continue
        began, ran = times.get(id_, (None, None))
        title = field_of(node, "_meta", "title")
        class_ = str(node.get("class_type") or "")
        yield {
            "id": id_,
            "class": class_,
            "title": title[:MAX_TEXT] if isinstance(title, str) and title else class_,
            "began": began,
            "ran": ran,
            "cached": id_ in cached,
            "marked": id_ == marked,
        }


def _outputs(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the node, the media and the item of each output file."""
    for node, file in output_files.files_of(outputs):
        yield node, file.key, file.item


def _output_texts(outputs: Mapping[str, Any]) -> Iterator[TextShown]:
    """Yield the texts that nodes have put out, cut if they are long."""
    for node, output in outputs.items():
        for text in list_of(field_of(output, "text")):
            if isinstance(text, str) and text.strip():
                yield {"node": node, "text": text.strip()[:MAX_ERROR]}


def _output(number: int, node: str, media: str, item: Mapping[str, Any]) -> OutputShown:
    return {
        "number": number,
        "node": node,
        "media": media,
        "filename": item["filename"],
        "subfolder": str(item.get("subfolder") or ""),
        "type": str(item.get("type") or "output"),
        "thumbnail": _is_picture(item),
    }


def _is_picture(item: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether an output is a file with a thumbnail."""
    if not isinstance(item, Mapping) or not isinstance(item.get("filename"), str):
        return False
    return media_types.kind(item["filename"]) == "image"
