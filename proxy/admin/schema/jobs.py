"""The JSON of jobs, live and ended: `/proxy/api/jobs`, `run` and `workflow`."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from proxy.costs.credits import Source
from proxy.jobs.engine_calls import RunFound
from proxy.translate.errors import Error


class JobShown(TypedDict):
    """What is shown of every job."""

    id: str
    member: str
    label: str
    state: str
    account: str | None
    created: int
    started: int | None


class LiveJobShown(JobShown):
    """A job on the cloud or on its way. `progress` is from 0 to 1, `remaining` in ms."""

    progress: float
    remaining: int | None
    node: str | None
    reason: str | None


class WaitingJobShown(LiveJobShown):
    """A job that waits: `turn` counts from 1."""

    number: int | float
    turn: int


JobErrorShown = TypedDict(
    "JobErrorShown",
    {"type": str, "message": str, "node": str, "class": str, "traceback": NotRequired[str]},
)


CostPart = TypedDict(
    "CostPart", {"class": str, "nodes": int, "credits": float | None, "source": Source}
)


class CostShown(TypedDict):
    """What a job has cost in credits. `source` is that of the least certain of the `parts`, and
    what is `unknown` is not in the sum. The part whose class is empty is the GPU."""

    credits: float
    source: Source
    parts: list[CostPart]


class EndedJobShown(TypedDict):
    """An ended job."""

    id: str
    member: str
    label: str
    state: str
    account: str
    created: int
    started: int | None
    ended: int
    cost: CostShown
    output_count: int
    media: str | None
    thumbnail: bool
    error: JobErrorShown | None


class EndedJobs(TypedDict):
    """A page of ended jobs; `next` is the `before` of the following page."""

    jobs: list[EndedJobShown]
    next: str | None


NodeShown = TypedDict(
    "NodeShown",
    {
        "id": str,
        "class": str,
        "title": str,
        "began": int | None,
        "ran": float | int | None,
        "cached": bool,
        "marked": bool,
    },
)


class OutputShown(TypedDict):
    """A file that a job has made; `number` is that of its thumbnail."""

    number: int
    node: str
    media: str
    filename: str
    subfolder: str
    type: str
    thumbnail: bool


class TextShown(TypedDict):
    """A text that a node has put out."""

    node: str
    text: str


class PromptShown(TypedDict):
    """A text of the graph; `role` is `positive`, `negative` or empty."""

    node: str
    class_type: str
    input: str
    role: str
    text: str


class JobPage(JobShown):
    """A job, live or ended; what need not be there is there of either of them."""

    ended: int | None
    cost: CostShown | None
    error: JobErrorShown | None
    nodes: list[NodeShown]
    outputs: list[OutputShown]
    texts: list[TextShown]
    prompts: list[PromptShown]
    graph_only: bool
    output_count: NotRequired[int]
    media: NotRequired[str | None]
    thumbnail: NotRequired[bool]
    progress: NotRequired[float]
    remaining: NotRequired[int | None]
    node: NotRequired[str | None]
    reason: NotRequired[str | None]


class RunShown(RunFound):
    """How far a running job is; all is null of one that does not run."""

    preview: str | None


class SentWorkflow(TypedDict):
    """What a job was sent with; `workflow` is that of the web interface."""

    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    workflow: Any


class JobToCancel(TypedDict):
    """A job of a member."""

    member: str
    id: str


class Cancelled(TypedDict):
    """Whether the job was there to cancel."""

    cancelled: bool


class Released(TypedDict):
    """How many jobs were held."""

    released: int


class PromptToValidate(TypedDict, total=False):
    """A body of `POST /prompt`, whose `prompt` may also be a file of ComfyUI's editor."""

    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    partial_execution_targets: list[str]
    client_id: str
    front: bool


class ValidatedPrompt(TypedDict):
    """What `POST /prompt` would answer: its `status`, its `error` and its `node_errors`. The `cost`
    is `null` if the job is refused before it is known; `prompt` is the graph in API format that
    was made of a file of the editor, else `null`."""

    valid: bool
    status: int
    error: Error | None
    node_errors: dict[str, Any]
    cost: CostShown | None
    prompt: dict[str, Any] | None
