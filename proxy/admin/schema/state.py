"""The JSON of what changes: `/proxy/api/state`, `events` and `interface`."""

from __future__ import annotations

from typing import Literal, TypedDict

from proxy.admin.schema.jobs import LiveJobShown, WaitingJobShown
from proxy.jobs.models import AccountKind
from proxy.members.member import Role


class AccountShown(TypedDict):
    """An account, which may be a deployment, with jobs in `used` of its `slots`; `reason` says why
    it takes none until `until`."""

    name: str
    kind: AccountKind
    slots: int
    used: int
    reason: str | None
    until: int | None
    events: bool
    plan: str | None


class Counts(TypedDict):
    """How many jobs there are, also those that are not listed. Of those that wait, `held` ones are
    from a backup that was restored: an admin must release them."""

    running: int
    waiting: int
    waiting_by_member: dict[str, int]
    held: int


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
    """The caller. A `gateway` has members."""

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
    a budget that is not `hard` refuses nothing. It is `near` from 80 % on, and `renews` at midnight
    (UTC) or with the month."""

    member: str
    name: str
    period: Literal["day", "month"]
    hard: bool
    limit: float
    spent: float
    reserved: float
    near: bool
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
