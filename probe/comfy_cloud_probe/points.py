"""The open points: what the proxy assumes, what it accepts, and the observations.

An observation is a short text made of words of this module, so that two runs against an unchanged
cloud give the same one, and so that no key, no signed URL and no prompt can be in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from proxy import __version__

Level: TypeAlias = Literal["read", "run"]
Verdict: TypeAlias = Literal["as_assumed", "tolerated", "not_understood", "not_seen"]
Overall: TypeAlias = Literal["works", "limited", "fails"]


@dataclass(frozen=True, slots=True)
class Point:
    """One open point.

    `assumed` is the observation that the proxy expects. `accepted` are patterns (whole matches) of
    the others that it understands. A point that is `needed` decides whether the cloud can be used;
    `costs` says what a client misses when the observation is one of its keys.
    """

    id: str
    level: Level
    question: str
    assumed: str
    accepted: tuple[str, ...] = ()
    needed: bool = False
    costs: dict[str, str] = field(default_factory=dict)

    def verdict(self, observed: str | None) -> Verdict:
        """Return how an observation compares with what the proxy expects; `None` is no
        observation."""
        if observed is None:
            return "not_seen"
        if observed == self.assumed:
            return "as_assumed"
        known = any(re.fullmatch(pattern, observed) for pattern in self.accepted)
        return "tolerated" if known else "not_understood"


#: `id | question | assumed | accepted | …`, in the order of the report. An exclamation mark says
#: that nothing works without it; a line that ends with a bar continues in the next one.
_READ = r"""
health | Answer of GET /health | 200 | 503 | 404
user! | Answer of GET /api/user with the key | 200
bearer_key | The key as Authorization: Bearer | 200 | 40[13]\b.*
features | GET /api/features | object
max_upload_size | Announced max_upload_size | 52428800 | \d+ | absent
system_stats | GET /api/system_stats | system and devices | system
billing_status | GET /api/billing/status | 401 | \d{3}\b.*
billing_balance | GET /api/billing/balance | 401 | \d{3}\b.*
billing_events | GET /api/billing/events | 401 | \d{3}\b.*
billing_usage | GET /api/billing/usage | 404 | \d{3}\b.*
billing_capabilities | GET /api/billing/capabilities | 401 | \d{3}\b.*
workspace | GET /api/workspaces/current | 401 | \d{3}\b.*
deployments | GET /api/workspaces/{id}/deployments | unknown workspace | \d{3}\b.*
max_concurrent_jobs | Announced max_concurrent_jobs | absent | \d+
rate_limit_headers | Headers that tell of rate limits | none | [a-z, -]+
deprecation_headers | Headers that announce the end of v1 | none | [a-z, ]+
v2_jobs | GET /api/v2/jobs/{id} of no job, with the key as Bearer | 404 error | \d{3}\b.*
object_info! | GET /api/object_info | classes
user_models | Names that include_user_models adds to the lists | none | some
user_models_listed | The lists of models by folder have these names | no names to compare | yes | no
model_assets | GET /api/assets of models | 200 | \d{3}\b.*
krita_nodes | Classes that Krita AI Diffusion requires of the cloud | none | all | some
object_info_class | GET /api/object_info/{class} | 404 | 200
model_folders | GET /api/experiment/models | name and folders | name
model_files | GET /api/experiment/models/{folder} | name and pathIndex | name
model_preview | GET /api/experiment/models/preview | 404 | picture
template_picture | GET /templates/{template}-1.webp | picture | \d{3}
local_history | GET /api/history | 404 | 200
history_v2 | GET /api/history_v2 | history list | 404
local_routes | GET of i18n, embeddings and internal/logs | 404 | [\d, ]+
unknown_job | A job that does not exist | 404 code and message | 404.*
socket_token! | Socket with the key in the query | open
socket_header | Socket with the key in a header | refused 401 | open | refused \d+
socket_cap | Three sockets at once | 3 open | 2 open
first_frame | First message of a socket | status with sid | status
feature_flags | The socket's feature_flags | pushed | asked | never
text_flag | The socket's supports_progress_text_metadata | absent | true | false
"""

_RUN = r"""
upload! | POST /api/upload/image of a PNG | 200
upload_name | Form of the name | <64 hex>.<ext> | <64 hex> | blake3:<64 hex>.<ext> |
  blake3:<64 hex> | <64 HEX>.<EXT> | as sent | other
upload_hash | Hash in the name | blake3 of the bytes | another | none
upload_kinds | Kinds of file that uploads take | images and audio | images | any
listed_uploads | LoadAudio of a file of /api/upload/image | refused | accepted
asset_upload | POST /api/assets of a sound | loader_path | hash | refused
listed_assets | LoadAudio of an asset | accepted | refused
upload_edge | A PNG that is 16385 pixels wide | refused | taken
upload_pixels | A PNG of 8193 x 8193 pixels | refused | taken
annotated_name | A file named as NAME [input] in a graph | accepted | refused
view! | GET /api/view | redirect | bytes
signed_url_life | Cache-Control of the redirect | max-age | none
storage_range | Range at the storage | 206 | 200
storage_content_type | Content-Type at the storage | of the file | octet-stream | none
invalid_prompt | A graph that cannot run | 400 error and node_errors |
  200 error and node_errors | 400 code and message | 400 error
node_error_details | Errors of nodes carry details | yes | no
partly_valid | A graph of which a part can run | runs, node_errors told | runs, nothing told |
  no job, node_errors told | refused
submission! | POST /api/prompt | accepted | accepted, no prompt_id
retry_after | Retry-After of a refused submission | none | \d+ s
answer_order | The answer or the job's first event | answer first | event first
prompt_id | prompt_id in the body | minted | honoured
prompt_id_again | The same prompt_id again | another job | the same job | refused
client_id | client_id in the job's extra_data | absent | echoed
cache | Nodes of a graph that ran before | reused | run again
job_events | Events of a job | execution_start to execution_success
cached_when_empty | execution_cached without cached nodes | not sent | sent
timestamps | timestamp in execution_* events | absent | milliseconds | seconds
progress_state | Fields of progress_state | documented | full | not sent
executing_null | executing with node null, and the end event | after | before | not sent
final_status | The last status, and the end event | after | before | not sent
notifications | notification messages | sent | not sent
foreign_messages | asset_* and agent_* messages | not sent | sent
preview | Previews | type 4 | type 4 with image_type | type 1 | none
preview_flags | Previews of a socket without flags | the same | type 1
preview_format | Format of a PNG preview | png | jpeg | webp
text_frames | Progress texts | without job id | with job id | with job id if announced | none
executed_names | filename in executed | hash | display
executed_display_name | display_name in executed | absent | present
detail_delay | Detail of a job that has ended | complete within 1 s | later, in_progress |
  later, no outputs
display_name | display_name in the detail | present | absent
output_ids | id and hash in the detail | absent | present
output_subfolder | Folder of a filename_prefix | subfolder | display_name | nowhere
video_keys | Key of a saved video | video | video, videos | animated, images | images
job_assets | GET /api/jobs/{id}/assets | 200 | 404
job_executor | executor and deployment of a job | absent | executor | deployment |
  executor and deployment
workflow_id | Messages with workflow_id | none | [a-z_, ]+
view_res | GET /api/view of a PNG with res 32, 64, 2000 and abc | 400, 200, 400, 400 | [\d, ]+
usage_event | Newest gpu_usage event after a job | not readable | names the job |
  does not name the job | none
create_time | Unit of create_time | milliseconds | seconds
raw_status | GET /api/job/{id}/status of an ended job | success | completed | 404
error_detail | A failure in the detail | object | text
error_node | Node in execution_error | named | not named
exception_type | exception_type | python | cloud
queue_prompt | Third element of queue tuples | graph | wrapper
queue_reason | queue_reason of a waiting job | concurrency_limit | capacity | absent
queue_delete | POST /api/queue delete of a running job | cancels it | leaves it
cancel_pending | Event of a job cancelled while it waits | none | execution_interrupted
cancel_running | Event of a job cancelled while it runs | execution_interrupted | none
v2_submission | POST /api/v2/jobs with an Idempotency-Key | accepted | \d{3}\b.*
v2_repeat | The same Idempotency-Key again | 422 | the same job | another job | none | \d{3}\b.*
v2_status | Status of a v2 job that has ended | succeeded | completed | none | [a-z_]+
v2_outputs | Outputs of a v2 job | a list | by node | none
v2_assets | HEAD /api/v2/assets/by-hash of an upload | 200 | \d{3}\b.*
interrupt_scope | POST /api/interrupt with a job's id | the named job | the running job |
  the oldest running job | all running jobs | nothing
socket_idle | A socket on which nothing moves | open | closed
burst | 60 reads, ten at once | answered | throttled
throttle_form | Body of a throttled answer | text | empty | message | error
throttle_code | Code of a throttled answer | none | [A-Za-z_.-]+
throttle_retry_after | Retry-After of a throttled answer | none | \d+ s
free | POST /api/free | 404 | \d{3}\b.*
upload_name_kinds | Names of a JPEG and a WebP | like a PNG's | in another form | refused
history_delete | Body of POST /api/history | empty | object
"""

#: Which server of API v2: Comfy Cloud, or the first deployment of the accounts.
SurfaceName: TypeAlias = Literal["v2", "deployment"]

#: What is observed of each surface: `id | question | what Comfy Cloud is taken to say`.
_V2 = """
accepts | a submission with a key of its own | accepted
states | statuses of its job with places in the queue | queued, then running, then succeeded
polled_progress | progress of a job that is read while it runs | null
stream | types of frames of a stream | output, preview, progress, status
stream_progress | fields of a progress that have a value | none
stream_order | outputs in a stream and the last status | before the end
stream_end | how long a stream stays open after the last status | at once
end | the last status of a job | succeeded
times | times of a job that has ended | started_at, completed_at, metrics
retention | time until a job expires | 24 h
outputs | outputs by node with type and media type | none
output_names | names of outputs | none
output_order | a node's list of three pictures | by name
equal_pictures | two equal pictures of a node | 2 entries, 2 ids, 1 hashes
unknown_class | a graph with an unknown class | 422 invalid_workflow
wrong_value | a graph with a value out of its bounds | 422 invalid_workflow
invalid | a graph that cannot run | 422 invalid_workflow
half_valid | a graph of which a part can run | 201
details | details of these refusals | none
failure | fields of the error of a graph that was taken and cannot run | none
failure_charged | whether that graph had a worker | no worker ran
unknown_fields | client_id and number in a submission | 201
extra_pnginfo | extra_data.extra_pnginfo in a submission | 400 invalid_request
exception | the error of a node that raises | code, message, node_id, class_type, traceback
traceback | the exception that its traceback names | re.error
labels | labels of a submission | 422 metadata_not_supported
list | the list of jobs | 501 not_implemented
list_by_label | the list of jobs with a label | none
cancel | a job that is cancelled at once | canceled, then canceled, no error
cancel_running | a job that is cancelled while it runs | canceling, then canceled, no error
upload | an upload | 201
upload_retention | time until it expires | never
same_bytes | the same bytes under another name | 200, the same id, the first name
from_hash | a record of bytes by their hash | 201
expires_in | an upload that is to expire after an hour | 1 h
upload_folder | an upload with a folder in its path | 422 validation_error
upload_spaces | an upload with a space in its path | 201
upload_letters | an upload with letters beyond ASCII in its path | 201
any_input | an upload as the input of a node that takes anything | succeeded
output_as_input | an output as the input of LoadImage | succeeded
content | the content of a file | 302 to storage.googleapis.com
signed_url_life | how long its signed URL is good | not told
storage_headers | status and headers of a part of it | 206: none
streams | streams at once, of twelve | 12 open
reads | 60 reads of a job, ten at once | answered
upload_11_mb | an upload of 11 MB | 201
delete | deleting an upload, twice | 204, then 404 not_found
"""

#: What is observed of a deployment alone.
_DEPLOYMENT = """
upload_60_mb | an upload of 60 MB | 201
upload_150_mb | an upload of 150 MB | 201
"""


def v2_points(surface: SurfaceName) -> list[str]:
    """Return the names of the points of a surface, in their order and without its own name."""
    return [line.partition(" | ")[0] for line in _v2_lines(surface)]


def _v2_lines(surface: SurfaceName) -> list[str]:
    own = _DEPLOYMENT if surface == "deployment" else ""
    return [*_V2.strip().splitlines(), *own.strip().splitlines()]


def _v2_table(surface: SurfaceName, name: str) -> str:
    """Return the table of a surface: the proxy depends on none of these, so that it takes every
    answer."""
    cells = (line.split(" | ") for line in _v2_lines(surface))
    return "\n".join(
        f"{surface}_{id_} | {name}: {question} | {assumed} | [^|]*"
        for id_, question, assumed in cells
    )


_PICK = r"""
default_deployment | A job of the key and the default deployment | no default | followed |
  not followed
deployment_pick | PUT of a deployment of the workspace | no deployment | \d{3}\b.*
deployment_classes | Node classes after the pick | no deployment | the same | others
deployment_pick_job | executor of a job after the pick | no deployment | [^|]*
v2_in_v1_list | A job of API v2 in GET /api/jobs | yes | no
"""

#: What a client misses, by point and observation.
_COSTS = {
    "socket_cap": {"1 open": "another program's socket of the account stops progress"},
    "annotated_name": {"refused": "outputs cannot be inputs by their annotated names"},
    "preview": {"none": "clients see no previews"},
    "display_name": {"absent": "outputs are named by hash"},
}


def _points(level: Level, table: str) -> Iterator[Point]:
    for line in table.replace("|\n", "|").strip().splitlines():
        id_, question, assumed, *accepted = (cell.strip() for cell in line.split(" | "))
        name = id_.removesuffix("!")
        costs = _COSTS.get(name, {})
        yield Point(name, level, question, assumed, tuple(accepted), id_ != name, costs)


#: Every point in the order of the report.
POINTS = (
    *_points("read", _READ),
    *_points("run", _RUN),
    *_points("run", _PICK),
    *_points("run", _v2_table("v2", "API v2 of Comfy Cloud")),
    *_points("run", _v2_table("deployment", "Deployment")),
)

_BY_ID = {point.id: point for point in POINTS}
#: The points of a probe that has a deployment alone.
_OF_DEPLOYMENT = {f"deployment_{name}" for name in v2_points("deployment")}


@dataclass(slots=True)
class Findings:
    """The observations of a probe, which may have no account of Comfy Cloud but a deployment
    alone. `catalog` counts the classes by node pack."""

    level: Level
    cloud: bool = True
    observed: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    catalog: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def see(self, id_: str, observed: str, note: str = "") -> None:
        """Record an observation; the first one of a point stays. Raises `KeyError`."""
        self.observed.setdefault(_BY_ID[id_].id, (observed, note))

    def miss(self, ids: Iterable[str], why: str) -> None:
        """Say why points were not seen."""
        for id_ in ids:
            self.notes.setdefault(_BY_ID[id_].id, why)

    def value(self, id_: str) -> str | None:
        """Return the observed value of a point."""
        return self.observed.get(id_, (None, ""))[0]

    def rows(self) -> list[dict[str, Any]]:
        """Return `{"id", "question", "observed", "assumed", "verdict", "note"}` for each point."""
        rows = []
        for point in POINTS:
            if point.level == "run" and self.level == "read":
                continue
            if not self.cloud and point.id not in _OF_DEPLOYMENT:
                continue
            observed, note = self.observed.get(point.id, (None, self.notes.get(point.id, "")))
            rows.append(
                {
                    "id": point.id,
                    "question": point.question,
                    "observed": observed,
                    "assumed": point.assumed,
                    "verdict": point.verdict(observed),
                    "note": note,
                }
            )
        return rows

    def conclusion(self) -> tuple[Overall, str]:
        """Return whether the proxy works with this cloud, and a sentence that says why."""
        if not self.cloud:
            accepts = self.value("deployment_accepts")
            if accepts == "accepted":
                return "works", "The deployment takes jobs."
            return "fails", f"The deployment takes no jobs: {accepts or 'it was not seen'}."
        broken, limits = [], []
        for point in POINTS:
            observed = self.value(point.id)
            verdict = point.verdict(observed)
            if point.needed and (point.level == "read" or self.level == "run"):
                if verdict in ("not_understood", "not_seen"):
                    broken.append(f"{point.id} is {observed or 'not seen'}")
                continue
            if observed in point.costs:
                limits.append(point.costs[observed])
            elif verdict == "not_understood":
                limits.append(f"{point.id} is not understood ({observed})")
        if broken:
            return "fails", f"The proxy does not work with this account: {'; '.join(broken)}."
        if limits:
            return "limited", f"The proxy works with these limits: {'; '.join(limits)}."
        return "works", "The proxy works with this account."

    def report(self) -> dict[str, Any]:
        """Return the whole result, ready to be written as JSON."""
        verdict, sentence = self.conclusion()
        return {
            "verdict": verdict,
            "conclusion": sentence,
            "version": __version__,
            "level": self.level,
            "points": self.rows(),
            "catalog": dict(sorted(self.catalog.items())),
        }
