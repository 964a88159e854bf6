"""What nobody outside knows about Comfy Cloud, one switch each.

The documents of the cloud leave these points open or contradict one another. The defaults follow
the documents where they say something, and the more awkward reading where they do not. Every
switch may be set at the start and at any time later; a wrong name or value is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import msgspec

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]

PromptRefusal: TypeAlias = Literal[
    "PAYMENT_REQUIRED",
    "CLOUD_SUBSCRIPTION_REQUIRED",
    "FREE_TIER_EXHAUSTED",
    "PARTNER_NODE_PAYMENT_REQUIRED",
    "MODEL_PAYMENT_REQUIRED",
    "PARTNER_NODE_DISABLED",
    "QUEUE_LIMIT",
    "FREE_TIER_UNAVAILABLE",
    "BILLING_UNAVAILABLE",
    "PLATFORM_REFUSED",
    "INTERNAL",
    "UNAVAILABLE",
]
AccountRefusal: TypeAlias = Literal[
    "FORBIDDEN",
    "workspace_access_denied",
    "no_workspace_access",
    "origin_not_allowed",
    "sso_required",
    "auth_type_not_allowed",
]


@dataclass
class Switches:
    """The unknowns of the cloud. See the text below each field."""

    # --- the pace of things, in seconds
    pace: Seconds = 0.0
    """Shortest time of one step of a node."""
    dispatch: Seconds = 0.0
    """Time that a job with a slot spends in `preparing` before it executes."""
    capacity_wait: Seconds = 0.0
    """Time that a job with a slot spends in `queued_waiting`, for lack of a machine."""
    late_answer: Seconds = 0.0
    """How long `POST /api/prompt` holds back its answer while the job already continues."""
    answer_after_first_event: bool = False
    """Whether `POST /api/prompt` answers only when the job's first event has gone out."""
    late_detail: Seconds = 0.0
    """How long the job's answers lag behind the event that ended it."""
    late_detail_form: Literal["in_progress", "no_outputs"] = "in_progress"
    """What a lagging answer says: still running, or ended with the outputs missing."""
    settle: Seconds = 0.05
    """How long `erroring` and `cancel_requested` last before `error` and `cancelled`."""

    # --- submissions
    refuse_prompt: PromptRefusal | None = None
    """Refuse every submission with this error and the status that belongs to it."""
    retry_after: Count = 1
    """The `Retry-After` of BILLING_UNAVAILABLE and PLATFORM_REFUSED; 0 leaves it out."""
    billing_status: Literal[402, 429] = 402
    """Status of refusals for lack of a plan or of credits: 402, or 429 as older documents say."""
    bare_acceptance: bool = False
    """Whether `POST /api/prompt` leaves the `prompt_id` out of its answer to a job it takes."""
    queue_limit: Count = 0
    """Most jobs that may wait; more get 429 QUEUE_LIMIT. 0 is no limit."""
    max_workflow_bytes: Count = 10_000_000
    """Largest body of `POST /api/prompt`; more is 413."""
    invalid_prompt: Literal["400", "200", "flat"] = "400"
    """A graph that cannot run at all: 400 in ComfyUI's form, the same body with 200, or a 400
    `{code, message}`."""
    partly_valid: Literal["run", "ghost", "silent"] = "run"
    """A graph of which a part can run: run it and tell the `node_errors`; tell them with an id
    under which no job exists; or run it and tell nothing."""
    node_error_details: bool = True
    """Whether errors of nodes carry `details` and `extra_info`."""
    honour_prompt_id: bool = False
    """Whether a `prompt_id` in the body becomes the id of the job."""
    repeated_prompt_id: Literal["another", "same", "refused"] = "another"
    """A `prompt_id` that is honoured and that a job has: another job with an id of its own, the
    answer of that job once more, or 400."""
    echo_client_id: bool = False
    """Whether a `client_id` in the body shows up in the job's `extra_data`."""
    node_packs: bool = False
    """Whether there are nodes of packs for ControlNet preprocessors, IP-Adapter and inpainting."""
    cache_nodes: bool = True
    """Whether nodes with the same inputs as in an earlier job are not run again."""

    # --- events
    preview: Literal["metadata", "metadata_with_type", "plain", "none"] = "metadata"
    """Previews as binary type 4 without `image_type`, with it, as type 1, or not at all."""
    preview_follows_flags: bool = False
    """Whether sockets that did not announce `supports_preview_metadata` get type 1 instead."""
    preview_format: Literal["as_made", "jpeg", "png", "webp"] = "as_made"
    """Format of the previews. WebP has no number in type 1 and goes out there as 1."""
    feature_flags: Literal["pushed", "asked", "never"] = "pushed"
    """Whether the flags come without a request after the first `status`, only in answer, or
    never."""
    text_frames: Literal["short", "long", "long_if_announced"] = "short"
    """Binary type 3 without the job's id or with it (the pushed flags then say
    `supports_progress_text_metadata`), the latter perhaps only to sockets that announced it."""
    cached_when_empty: bool = False
    """Whether `execution_cached` is sent when no node was cached."""
    executing_null: Literal["before", "after", "never"] = "after"
    """Where `executing` with `node: null` stands relative to the event that ends the job."""
    final_status: Literal["before", "after", "never"] = "after"
    """Where the last `status` stands relative to the event that ends the job."""
    timestamps: bool = False
    """Whether `execution_*` events carry a `timestamp` (ms)."""
    progress_state: Literal["documented", "full", "none"] = "documented"
    """`progress_state` with the documented fields, with ComfyUI's own too, or not sent."""
    executed_null: bool = True
    """Whether a node that is equal to one that has just run has an `executed` without an output, as
    in ComfyUI."""
    notifications: bool = True
    """Whether `notification` messages are sent."""
    foreign_messages: bool = False
    """Whether `asset_download` and `agent_message` messages mix with those of jobs."""
    interrupted_pending: bool = False
    """Whether `execution_interrupted` is sent for a job cancelled before it ran."""
    interrupted_running: bool = True
    """Whether `execution_interrupted` is sent for a job cancelled while it ran."""
    error_node: bool = True
    """Whether `execution_error` names the node that failed."""
    exception_types: Literal["python", "cloud"] = "python"
    """Whether a node's failure has its Python type or a class of the cloud's own."""
    handshake_headers: bool = False
    """Whether the websocket takes a credential in a header beside `token` in the query."""
    socket_cap: Count = 0
    """Most sockets of an account; more are refused with 429. 0 is no limit."""
    socket_idle: Seconds = 0.0
    """A socket on which nothing moved for so long is closed with 1001. 0 is never."""

    # --- outputs
    display_name: bool = True
    """Whether items of outputs carry `display_name` in the answers about jobs."""
    executed_display_name: bool = False
    """Whether they do so in `executed` as well."""
    output_ids: bool = False
    """Whether items of outputs carry `id` and `hash` in the answers about jobs."""
    executed_names: Literal["hash", "display"] = "hash"
    """Which name is the `filename` in `executed`."""
    output_subfolder: Literal["item", "display_name", "nowhere"] = "item"
    """Where the folder of a `filename_prefix` is kept."""
    video_keys: Literal["video", "both", "images"] = "video"
    """Videos under `video`, under `video` and `videos`, or under `images` as ComfyUI has them."""

    # --- answers
    create_time: Literal["ms", "s"] = "ms"
    """Unit of `create_time` and `update_time` in the answers about jobs."""
    error_detail: Literal["object", "string"] = "object"
    """A failure as the object `execution_error`, or as the JSON text `error_message`."""
    raw_statuses: bool = True
    """Whether `GET /api/job/{id}/status` says the real states or those of its specification."""
    queue_prompt: Literal["graph", "wrapper"] = "graph"
    """Third element of queue tuples: the graph, or `{prompt, extra_data}`."""
    queue_delete_running: bool = True
    """Whether `delete` of `POST /api/queue` cancels running jobs too."""
    interrupt_scope: Literal["one", "first_running", "all_running"] = "one"
    """`POST /api/interrupt`: the named job or else the oldest; the oldest running one, whatever
    is named; or all running ones."""
    bare_answers: Literal["empty", "object"] = "empty"
    """Body of 200 answers that no document describes (interrupt, history)."""

    # --- files
    upload_kinds: Literal["images", "media", "any"] = "media"
    """What uploads take: images; also audio and video; anything. Assets may be anything."""
    listed_uploads: Literal["images", "any"] = "images"
    """Files of `/api/upload/image` that loaders find, as was reported of LoadVideo: images, or all.
    Others have to be sent to `/api/assets`."""
    asset_uploads: bool = True
    """Whether `POST /api/assets` takes files, or is 404."""
    upload_names: Literal["extension", "bare", "prefixed", "upper"] = "extension"
    """Names of uploads: `<hex>.<ext>`, `<hex>`, `blake3:<hex>.<ext>`, or with capital letters."""
    annotated_names: bool = True
    """Whether `name [input]` and the like are understood in a graph."""
    signed_url_life: Seconds = 3600.0
    """How long a signed URL is good for."""
    expired_status: Literal[403, 400] = 403
    """Status of the storage's answer to an expired signature."""
    storage_range: bool = True
    """Whether the storage serves ranges."""
    storage_content_type: bool = True
    """Whether the storage tells the content type, or calls all `application/octet-stream`."""
    model_previews: bool = False
    """Whether `experiment/models/preview` gives pictures, or 404."""
    template_pictures: bool = True
    """Whether `/templates` has the pictures of the workflow templates, or 404."""

    # --- the account and the user's data
    refuse_account: AccountRefusal | None = None
    """Refuse every authenticated request with this 403."""
    rate_limit: Count = 0
    """Requests per second of an account before 429. 0 is no limit."""
    rate_limit_retry_after: bool = False
    """Whether that 429 has a `Retry-After`."""
    rate_limit_form: Literal["text", "flat", "nested", "empty"] = "text"
    """Body of that 429, which no document shows: text, `{code, message}`, `{error: {type,
    message}}`, or nothing."""
    rate_limit_code: str = ""
    """The `code` or `type` in it; empty leaves it out. No document names one."""
    v2: bool = True
    """Whether the key is good for `/api/v2`."""
    listed_imports: bool = False
    """Whether the lists of models by folder hold those that the account has imported."""
    announced_slots: bool = False
    """Whether `GET /api/features` has `max_concurrent_jobs`."""
    billing_for_keys: bool = False
    """Whether the routes of billing and of the workspace take a key, or answer 401."""
    executors: bool = False
    """Whether jobs show `executor` and `deployment`."""
    deployment_pick: Literal["none", "refused", "ignored", "followed"] = "none"
    """Whether the workspace has a deployment, and what a key's pick of it does: it is refused,
    gives no cookie, or lets what comes with the cookie see and use the deployment."""
    healthy: bool = True
    """Whether `GET /health` says so."""

    def __setattr__(self, name: str, value: object) -> None:
        hint = _hints().get(name)
        if hint is None:
            raise AttributeError(f"there is no switch {name!r}")
        try:
            object.__setattr__(self, name, msgspec.convert(value, hint))
        except msgspec.ValidationError as error:
            raise ValueError(f"switch {name!r}: {error}") from None

    def update(self, values: Mapping[str, object]) -> None:
        """Set several switches, or none of them.

        Raises `ValueError` for an unknown name or a value that the switch cannot have.
        """
        trial = Switches(**asdict(self))
        for name, value in values.items():
            try:
                setattr(trial, name, value)
            except AttributeError as error:
                raise ValueError(str(error)) from None
        for name in values:
            setattr(self, name, getattr(trial, name))

    def values(self) -> dict[str, Any]:
        """Return all switches by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Switches, include_extras=True)
