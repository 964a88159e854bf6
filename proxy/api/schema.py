"""The JSON that `/proxy/api` answers with, as types. `docs/openapi.json` is drawn from them.

Times are ms since 1970. Types of what members and tokens are made of are in
`proxy/members/member.py`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from proxy.costs.credits import Source
from proxy.members.member import Member, Role


class Error(TypedDict):
    """What is wrong: a `type` of docs/troubleshooting.md and a sentence that says what to do."""

    type: str
    message: str
    details: str
    extra_info: dict[str, Any]


class RefusalBody(TypedDict):
    """A refusal, in the form of ComfyUI's."""

    error: Error
    node_errors: Any


# --- the state ------------------------------------------------------------------------------


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


class AccountShown(TypedDict):
    """An account, with jobs in `used` of its `slots`; `reason` says why it takes none until
    `until`."""

    name: str
    slots: int
    used: int
    reason: str | None
    until: int | None
    events: bool
    plan: str | None


class Counts(TypedDict):
    """How many jobs there are, also those that are not listed."""

    running: int
    waiting: int
    waiting_by_member: dict[str, int]


class UsageToday(TypedDict):
    """What a member has used today. Runs of partner nodes without a known price are
    `unknown_costs`."""

    member: str
    jobs: int
    failed: int
    seconds: float
    outputs: int
    credits_reported: float
    credits_estimated: float
    unknown_costs: int


class Viewer(TypedDict):
    """Who is asking. A `gateway` has members."""

    name: str
    role: Role
    gateway: bool
    signed_in: bool


class ServerShown(TypedDict):
    """The server: whether it answers as ComfyUI at this address (`interface`), with a `frontend`
    that is installed, and shows the audit record and metrics."""

    version: str
    simulated: bool
    documentation: str | None
    interface: bool
    frontend: bool
    audit: bool
    metrics: bool


class BudgetShown(TypedDict):
    """A budget of a member, in credits. `reserved` is what the jobs under way are expected to cost;
    a budget that is not `hard` refuses nothing. It `renews` at midnight (UTC) or with the month."""

    member: str
    name: str
    period: Literal["day", "month"]
    hard: bool
    limit: float
    spent: float
    reserved: float
    reached: bool
    renews: int


class State(TypedDict):
    """Everything that changes, of the member or, for admins, of all. `trouble` says why no job can
    be accepted; `history` is another word when the ended jobs are others; `webhooks_disabled` are
    those of the viewer, for admins also of the gateway."""

    time: int
    running: list[LiveJobShown]
    waiting: list[WaitingJobShown]
    counts: Counts
    accounts: list[AccountShown]
    usage: list[UsageToday]
    budgets: list[BudgetShown]
    history: str
    webhooks_disabled: int
    trouble: str | None
    viewer: Viewer
    server: ServerShown


class InterfaceState(TypedDict):
    """What the extension of the web interface shows."""

    trouble: str | None
    interface: Literal["ready", "waiting", "missing"]
    simulated: bool
    pays_partner_nodes: bool
    signed_in: bool


# --- ended jobs -----------------------------------------------------------------------------


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


class NodeRun(TypedDict):
    """How far a node is: `value` of `max` steps."""

    state: str
    value: float | int
    max: float | int
    began: int | None
    ran: float | int | None


class RunShown(TypedDict):
    """How far a running job is; all is null of one that does not run."""

    progress: float | None
    remaining: int | None
    node: str | None
    nodes: dict[str, NodeRun]
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


# --- usage ----------------------------------------------------------------------------------


class UsageShown(TypedDict):
    """What a member used on a day. What jobs cost is in credits, by its source; `unknown_costs`
    counts partner nodes without a known price."""

    day: str
    member: str
    submitted: int
    withdrawn: int
    completed: int
    failed: int
    cancelled: int
    running_seconds: float
    outputs: int
    bytes_up: int
    bytes_down: int
    credits_reported: float
    credits_estimated: float
    unknown_costs: int


class CostOfDay(TypedDict):
    """What a member's jobs have cost on an account on a day: runs of `nodes` of a partner class,
    or, with an empty class, `seconds` on the GPU."""

    day: str
    member: str
    account: str
    node_class: str
    source: Source
    credits: float
    nodes: int
    seconds: float


#: With `rows=costs` it has `costs`, otherwise `usage`.
Usage = TypedDict(
    "Usage",
    {
        "from": str,
        "to": str,
        "usage": NotRequired[list[UsageShown]],
        "costs": NotRequired[list[CostOfDay]],
    },
)


class BalanceShown(TypedDict):
    """What is left on an account, less costs since an admin has `entered` it `at` a time. `text` is
    what Comfy Cloud reports, in its currency."""

    credits: float | None
    text: str
    source: Literal["reported", "entered", "unknown"]
    at: int | None


class DayBilled(TypedDict):
    """What jobs have cost on a day (UTC), and what Comfy Cloud has booked, in credits."""

    day: str
    ledger: float
    booked: float | None
    difference: float | None


class AccountBilled(TypedDict):
    """What an account was billed. `access` says whether Comfy Cloud lets its key read that, and
    `read_to` until when it was read. The sums are of the days that were read."""

    name: str
    access: Literal["allowed", "refused", "unknown"]
    read_to: int | None
    balance: BalanceShown
    ledger: float | None
    booked: float | None
    difference: float | None
    days: list[DayBilled]


BillingShown = TypedDict("BillingShown", {"from": str, "to": str, "accounts": list[AccountBilled]})


class ActivityPoint(TypedDict):
    """Jobs in an interval: the most at once, those that ended, and the seconds that they ran."""

    at: int
    running: int
    waiting: int
    completed: int
    failed: int
    busy: float


class AccountPoint(TypedDict):
    """An account in an interval."""

    at: int
    slots: int
    used: int
    reason: str | None


class AccountActivity(TypedDict):
    """An account over time."""

    name: str
    points: list[AccountPoint]


Activity = TypedDict(
    "Activity",
    {
        "range": Literal["1h", "24h", "7d"],
        "from": int,
        "to": int,
        "interval": int,
        "is_new": bool,
        "points": list[ActivityPoint],
        "account_interval": int,
        "accounts": list[AccountActivity],
    },
)


class AuditPage(TypedDict):
    """Entries of the audit record: `at`, `action`, `member`, `address` and what belongs to each."""

    entries: list[dict[str, Any]]
    offset: int
    has_more: bool


class Surprise(TypedDict):
    """Something undocumented that the cloud has sent."""

    kind: str
    name: str
    count: int
    first: int
    last: int
    example: Any


class AccountSurprises(TypedDict):
    """What is known of an account's cloud beyond its documents."""

    account: str
    facts: dict[str, Any]
    surprises: list[Surprise]


class Surprises(TypedDict):
    """That of all accounts."""

    accounts: list[AccountSurprises]


# --- members --------------------------------------------------------------------------------


class MemberShown(Member, frozen=True, kw_only=True):
    """A member with the number of its tokens."""

    tokens: int


class Members(TypedDict):
    """Members."""

    members: list[MemberShown]


class LastUse(TypedDict):
    """When and from where a token was last used."""

    at: int
    address: str


class TokenShown(TypedDict):
    """A token, of which only the beginning is `shown`."""

    id: str
    shown: str
    member: str
    note: str
    created: int
    expires: int | None
    last_used: LastUse | None


class Tokens(TypedDict):
    """Tokens."""

    tokens: list[TokenShown]


class MadeToken(TokenShown):
    """A new token, whole this once."""

    token: str


class InvitationShown(TypedDict):
    """An open invitation, of whose code only the beginning is `shown`."""

    id: str
    shown: str
    member: str
    created: int
    expires: int


class OpenInvitations(TypedDict):
    """Open invitations."""

    invitations: list[InvitationShown]


class MadeInvitation(InvitationShown):
    """A new invitation with its `code`, this once, and the `path` of the page that takes it."""

    code: str
    path: str


# --- webhooks -------------------------------------------------------------------------------


class DeliveryShown(TypedDict):
    """A message to a webhook: its last attempt, and when the `next` one is. `url` is that of a job;
    `outcome` is `waiting`, `delivered`, `failed` or `dropped`."""

    message: str
    type: str
    url: str | None
    created: int
    outcome: str
    attempts: int
    attempted: int | None
    status: int | None
    note: str
    next: int | None


class WebhookShown(TypedDict):
    """A webhook, without its secret. One without a `member` is of the gateway, one without a `url`
    is for those that jobs name. `disabled` says why it gets nothing more, `last` is its last
    attempt."""

    id: str
    member: str | None
    url: str | None
    types: list[str]
    created: int
    disabled: str | None
    disabled_at: int | None
    failing_since: int | None
    last: DeliveryShown | None


class WebhookList(TypedDict):
    """Webhooks."""

    webhooks: list[WebhookShown]


class MadeWebhook(WebhookShown):
    """A new webhook with its `secret`, this once."""

    secret: str


class WebhookSecret(TypedDict):
    """The new secret of a webhook, this once."""

    id: str
    secret: str


class WebhookTested(TypedDict):
    """The id of the message that tests a webhook."""

    message: str


class Deliveries(TypedDict):
    """The newest deliveries to a webhook."""

    deliveries: list[DeliveryShown]
