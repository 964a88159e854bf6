"""What is promised, and by which document; each is checked in every run.

`check_sockets` and `check_cloud` look at what was heard and sent, `check_end` at what is left when
everything has healed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from simulation.cloud import PRICE
from simulation.database import server
from simulation.plan import BUDGET, SPENDER
from simulation.tables import tables

from proxy.engine.live_job import LiveJob, RowState
from proxy.jobs.models import Wish
from proxy.storage.usage import day_of

if TYPE_CHECKING:
    from simulation.clients import Socket, Submission
    from simulation.replica import Replica
    from simulation.run import Run
    from simulation.world import World

#: What each promise is, and the document that gives it.
PROMISES = {
    "accepted_job_lost": "docs/how-it-works.md: what was accepted is on disk",
    "shown_job_gone": "docs/troubleshooting.md: what a poll has shown after a stop ends",
    "not_taken": "docs/cluster.md: a leader that runs takes jobs",
    "ended_twice": "docs/how-it-works.md: each job has exactly one end",
    "submitted_twice": "docs/how-it-works.md: the proxy never repeats a submission blindly",
    "refused_job_ran": "docs/reliability.md: a refused job does not run",
    "neither_queue_nor_history": "docs/reliability.md: a poll finds a job in the queue or history",
    "queue_after_end": "docs/how-it-works.md: a job that has ended has left the queue",
    "socket_dropped": "docs/reliability.md: a standby connects a websocket to the next leader",
    "older_answer": "docs/reliability.md: no leader answers after the next one has",
    "end_before_history": "docs/how-it-works.md: history before execution_success",
    "end_differs": "docs/how-it-works.md: a job ends as the cloud says that it has",
    "end_not_heard": "docs/reliability.md: open websockets get an end",
    "message_order": "docs/how-it-works.md: the messages of a local ComfyUI in the same order",
    "message_of_another_member": "docs/security.md: members hear of their own jobs",
    "picture_of_another_job": "docs/security.md: a preview that may be of another job is left out",
    "cancel_without_effect": "docs/how-it-works.md: a job that was cancelled does not run on",
    "budget_passed": "docs/costs.md: hard budgets",
    "output_differs": "docs/how-it-works.md: the outputs of a job are those that it has made",
    "limit_passed": "docs/gateway.md: limits of members",
    "out_of_turn": "docs/gateway.md: members take turns by their weights",
    "out_of_order": "docs/how-it-works.md: jobs of a member run in the order of their numbers",
    "access_differs": "docs/gateway.md: disabled and removed members, revoked tokens",
    "to_and_fro": "docs/cluster.md: the lead changes only where a standby reaches the cloud",
    "slots_passed": "docs/how-it-works.md: at most `slots` jobs on the cloud",
    "state_not_stored": "docs/how-it-works.md: each job has one state, which is stored with it",
    "two_engines": "docs/cluster.md: one process leads at a time",
    "starved": "docs/gateway.md: fair shares",
    "left_behind": "docs/reliability.md: nothing is held when no job is under way",
    "never_quiet": "docs/reliability.md: every job ends",
    "traceback": "docs/reliability.md: no error without a cause outside",
    "webhook_missing": "docs/webhooks.md: at least once",
    "webhook_changed": "docs/webhooks.md: repeats have the same id and body",
    "webhook_repeated": "docs/webhooks.md: what was accepted is not sent again",
    "numbers_differ": "docs/costs.md: usage and costs are those of the jobs",
    "not_superseded": "docs/cluster.md: the newest websocket with a clientId hears its messages",
    "no_engine": "docs/cluster.md: a process leads while the database answers",
}

#: Seconds after the last fault within which what rests is tried again: an account without credits,
#: after five minutes.
RESTS = 330.0

_TERMINAL = ("execution_success", "execution_error", "execution_interrupted")


class BrokenPromiseError(Exception):
    """Raised when a promise is broken: its name, and about what."""

    def __init__(self, name: str, about: object = "") -> None:
        super().__init__(f"{name}: {PROMISES[name]} ({about})")
        self.name = name


# --- websockets ----------------------------------------------------------------------------


def check_sockets(run: Run) -> None:
    """The order of messages on each socket, and the ends that each has heard."""
    ids = _runs_by_id(run)
    for client in run.clients:
        for socket in client.sockets:
            by_job: defaultdict[str, list[tuple[float, str, dict[str, Any]]]] = defaultdict(list)
            for at, type_, data in socket.heard:
                if id_ := str(data.get("prompt_id", "")):
                    by_job[id_].append((at, type_, data))
            for job in run.jobs:
                if ids[job.prompt_id] > 1 or job.submitted_again:
                    continue
                if job.client is client and client.listens:
                    _check_order(job, socket, by_job[job.prompt_id])
                elif job.client.listens and by_job[job.prompt_id]:
                    raise BrokenPromiseError("message_of_another_member", job.prompt_id)


def _check_order(
    job: Submission, socket: Socket, heard: list[tuple[float, str, dict[str, Any]]]
) -> None:
    """Check what one socket has heard of a job (`contract/websocket.md` 2.3), of one leader after
    the other: each tells what it has found, and one of them the end."""
    names = [_name(type_, data) for _, type_, data in heard]
    about = f"{job.prompt_id} {names}"
    if sum(name in _TERMINAL for name in names) > 1:
        raise BrokenPromiseError("ended_twice", about)
    if "over" in names and names[-1] != "over":
        raise BrokenPromiseError("message_order", f"after the last: {about}")
    bounds = [*socket.attachments, math.inf]
    for begun, ended in itertools.pairwise(bounds):
        of_leader = [message for message in heard if begun <= message[0] < ended]
        _check_order_of(job, begun, of_leader)


def _check_order_of(
    job: Submission, begun: float, heard: list[tuple[float, str, dict[str, Any]]]
) -> None:
    """Check what a socket has heard of a job from a leader, which knew of it since a time."""
    names = [_name(type_, data) for _, type_, data in heard]
    # A node that the cloud reports again, late, runs again for the client.
    once = [name for name in names if not name.startswith(("executing", "progress", "other"))]
    counts = Counter(once)
    about = f"{job.prompt_id} {names}"
    if any(count > 1 for count in counts.values()):
        raise BrokenPromiseError("message_order", f"repeated: {about}")
    ends = [name for name in names if name in _TERMINAL]
    if ends and set(names[names.index(ends[0]) + 1 :]) - {"over"}:
        raise BrokenPromiseError("message_order", f"after the end: {about}")
    if "execution_start" in names and names[0] != "execution_start":
        raise BrokenPromiseError("message_order", f"before the start: {about}")
    for place, name in enumerate(names):
        if name.startswith("executed ") and name.replace("executed", "executing") in names[place:]:
            raise BrokenPromiseError("message_order", f"runs after its output: {about}")
    was_there = begun < job.at
    if was_there and names and names[0] != "execution_start":
        raise BrokenPromiseError("message_order", f"without a start: {about}")
    if was_there and ends and "execution_cached" not in names:
        raise BrokenPromiseError("message_order", f"without cached: {about}")
    if "over" in names and not ends and was_there:
        raise BrokenPromiseError("message_order", f"without an end: {about}")


def _name(type_: str, data: dict[str, Any]) -> str:
    match type_:
        case "executing":
            return "over" if data.get("node") is None else f"executing {data['node']}"
        case "executed":
            return f"executed {data['node']}"
        case "progress" | "progress_state":
            return type_
        case _ if type_ in _TERMINAL or type_ in ("execution_start", "execution_cached"):
            return type_
    return "other"


# --- the cloud -----------------------------------------------------------------------------


def check_cloud(run: Run) -> None:
    """What the cloud has got: each job once, none that was refused, no more than the slots."""
    # One that the cloud has forgotten cannot be found, and may be sent again.
    known = [job for job in run.world.cloud_jobs() if not job.forgotten]
    marks = Counter(job.mark for job in known)
    for mark, count in marks.items():
        if count > 1:
            raise BrokenPromiseError("submitted_twice", f"{mark} {count} times")
    ids = _runs_by_id(run)
    for job in run.jobs:
        if job.outcome == "refused" and ids[job.prompt_id] and not _is_withdrawn(job):
            raise BrokenPromiseError("refused_job_ran", f"{job.prompt_id} {job.refusal}")
    most = max(cloud.most_live for cloud in run.world.clouds.values())
    # A job that fails over what cannot be stored keeps no slot until the cloud has cancelled it.
    gives_up = "value_refused" in run.plan.rates
    if run.plan.fixed_slots and not gives_up and most > run.plan.slots:
        raise BrokenPromiseError("slots_passed", most)


def _is_withdrawn(job: Submission) -> bool:
    """Return whether a client has cancelled a job while its submission was under way, and hears
    that it was cancelled or not sent. It may have been sent by then, while its replica stood
    still."""
    return job.refusal == "submission_withdrawn" and bool(job.unwanted)


def _runs_by_id(run: Run) -> Counter[str]:
    """How many jobs of the cloud each id has: a client that heard no answer may use one again."""
    marks = {job.mark for job in run.world.cloud_jobs()}
    return Counter(mark.split("/")[1] for mark in marks)


# --- the storage ---------------------------------------------------------------------------

#: Seconds after which a change is written whose outcome was lost again and again.
WRITTEN = 15.0


class StoredStates:
    """Looks now and then whether the database has what has become of each live job."""

    def __init__(self) -> None:
        #: How often each job has changed, and since when the engine has had time to write that.
        self._since: dict[int, tuple[int, float]] = {}

    def check(self, world: World, leaders: list[Replica]) -> None:
        """Look at the jobs of the replica that runs the engine. Raises `BrokenPromiseError`."""
        if len(leaders) != 1 or leaders[0].process.frozen or world.weather.database_ill:
            self._since.clear()
            return
        jobs = {job.order: job for job in leaders[0].parts.engine.table}
        since = self._since
        now, self._since = world.seconds, {}
        for order, job in jobs.items():
            is_now = world.changes[job.order]
            known, at = since.get(order, (is_now, now))
            self._since[order] = (is_now, at if known == is_now else now)
            if now - self._since[order][1] > WRITTEN and job.row is RowState.KEPT:
                _check_row(job)


def _check_row(job: LiveJob) -> None:
    """Compare a job with its row, in which a client may have left another wish."""
    found = server().raw.execute(
        "SELECT state, accepted, cloud_id, cancel_requested OR interrupted FROM jobs "
        'WHERE "order" = ?',
        (job.order,),
    )
    row = found.fetchone()
    state = (job.state, job.accepted, job.cloud_id)
    if row is not None and (row[:3] != state or (job.wish is not Wish.NONE and not row[3])):
        raise BrokenPromiseError("state_not_stored", f"{job.prompt_id} {row} {state} {job.wish}")


# --- the end -------------------------------------------------------------------------------


def check_end(run: Run) -> None:
    """What is left when all has healed and nothing is under way."""
    ended = _history()
    for job in run.jobs:
        member, id_ = job.client.member, job.prompt_id
        count = ended[member, id_]
        if count > 1 and not job.submitted_again:
            raise BrokenPromiseError("ended_twice", id_)
        if job.outcome == "accepted" and not count and not job.unwanted:
            raise BrokenPromiseError("accepted_job_lost", id_)
        if job.was_seen and not count and not job.unwanted and not job.is_unconfirmed:
            raise BrokenPromiseError("shown_job_gone", id_)
        if job.outcome == "refused" and count and not _is_withdrawn(job):
            raise BrokenPromiseError("refused_job_ran", f"{id_} {job.refusal}")
        if count and not job.submitted_again:
            _check_heard(run, job)
    _check_ends(run.world)
    _check_hooks(run)
    _check_waits(run)
    active = [each.name for each in run.replicas if each.leads]
    if len(active) != 1:
        raise BrokenPromiseError("two_engines", active)
    for replica in run.replicas:
        if replica.leads:
            _check_leader(run, replica)
    deployment = run.world.deployment
    sockets = [] if deployment is None else deployment.sockets
    if open_ := [stream.job for stream in sockets if stream.process is not None]:
        raise BrokenPromiseError("left_behind", f"streams of {open_}")


def _history() -> Counter[tuple[str, str]]:
    rows = server().raw.execute("SELECT member, prompt_id FROM history").fetchall()
    return Counter((str(member), str(id_)) for member, id_ in rows)


def _check_ends(world: World) -> None:
    """A job that the cloud still knows has ended there as the history says."""
    jobs = {job.mark: job for job in world.cloud_jobs() if job.is_found and not job.forgotten}
    has_changed = sum("leadership_started" in line.what for line in world.trace) > 1
    rows = server().raw.execute(
        "SELECT member || '/' || prompt_id || '/' || created_at, cloud_id, state, result "
        "FROM history"
    )
    for mark, cloud_id, state, result in rows.fetchall():
        if (job := jobs.get(mark)) is None:
            continue
        if state == "failed" and server().refuses(mark.split("/")[1]):
            continue
        if cloud_id != job.id or state not in job.outcomes(has_engine_changed=has_changed):
            about = f"{mark} {state} as {cloud_id!r}, on the cloud {job.status} as {job.id}"
            raise BrokenPromiseError("end_differs", about)
        if state == "succeeded" and (missing := job.saved - set(json.loads(result)["outputs"])):
            raise BrokenPromiseError("end_differs", f"{mark} lacks outputs of {missing}")


def _check_heard(run: Run, job: Submission) -> None:
    """A socket that is still open, and was before the job, has heard its end."""
    client = job.client
    socket = client.socket
    if not client.listens or socket is None or not socket.is_open or job.outcome != "accepted":
        return
    if socket.opened_at >= job.at or socket.attached_at >= run.world.ends.get(job.prompt_id, 0.0):
        return
    names = {
        _name(type_, data)
        for _, type_, data in socket.heard
        if data.get("prompt_id") == job.prompt_id
    }
    if "over" not in names or not names & set(_TERMINAL):
        raise BrokenPromiseError("end_not_heard", f"{job.prompt_id} {sorted(names)}")


def _check_waits(run: Run) -> None:
    """Where nothing fails, or once all has healed, no job waits longer than all others take."""
    plan = run.plan
    calm = not (plan.faults or plan.rates)
    # Those of one client may run one after the other. What rests is tried again within a while.
    longest = (10.0 if calm else RESTS) + len(run.jobs) * (2 * plan.seconds + 2.0)
    sent = {job.mark.split("/")[1]: job.created for job in run.world.cloud_jobs()}
    for job in run.jobs:
        if job.outcome == "accepted" and job.prompt_id in sent:
            since = job.answered_at if calm else max(job.answered_at, run.healed_at)
            waited = run.world.seconds_at(sent[job.prompt_id]) - since
            if waited > longest:
                raise BrokenPromiseError("starved", f"{job.prompt_id} waited {waited:.0f} s")


def is_budget_spent(run: Run, estimate: int) -> bool:
    """Return whether the hard budget of today has less left than a job of its member is expected to
    cost, since a job was taken in or sent while no price was known, or has run for longer."""
    spent, world = dict(_spent_by_day()), run.world
    days = {day_of(world.true_time() + ahead) for ahead in (0.0, *world.clock.ahead.values())}
    most = max(spent.get(day, 0) for day in days)
    has_reason = SPENDER in server().unpriced or run.plan.credits_per_second > 0
    return has_reason and most + max(estimate, PRICE * 1_000_000) > BUDGET * 1_000_000


def _spent_by_day() -> list[tuple[str, int]]:
    rows = server().raw.execute(
        "SELECT day, sum(amount) FROM costs WHERE member = ? GROUP BY day", (SPENDER,)
    )
    return [(str(day), int(amount)) for day, amount in rows.fetchall()]


def _check_hooks(run: Run) -> None:
    hooks = run.world.hooks
    again = {job.prompt_id for job in run.jobs if job.submitted_again}
    for (job, type_), ids in hooks.ids.items():
        if len(ids) > 1 and job not in again:
            raise BrokenPromiseError("webhook_changed", f"{job} {type_} {ids}")
    if any(len(bodies) > 1 for bodies in hooks.bodies.values()):
        raise BrokenPromiseError("webhook_changed", "a body")


#: How many items a table has at most that is no cache when no job is under way: the largest has run
#: times of each member and shape of a graph, of which there are 30 here, and more with the nodes of
#: a deployment. None grows with the jobs.
MAX_TABLE, MAX_TABLE_WITH_OWN_NODES = 40, 200


def _is_one_of(item: Any, ids: set[Any]) -> bool:
    """Return whether an item of a table, or its key, is one of ids."""
    try:
        return item in ids or (isinstance(item, tuple) and any(part in ids for part in item))
    except TypeError:  # it has no hash
        return False


def _check_leader(run: Run, replica: Any) -> None:
    """No slot, lock, byte of a budget, task or entry of a table is left."""
    parts = replica.parts
    service, engine = parts.jobs, parts.engine
    table, scheduler = engine.table, engine.scheduler
    left: dict[str, Any] = {
        "live jobs": [job.prompt_id for job in service.live()],
        "answering": [m for m, live in service._live.members() if live.answering],
        "budget": {
            kind: held
            for kind, held in parts.given.budget.held().items()
            if held and kind != "job"  # in which caches are
        },
    }
    left |= {
        "table": [job.prompt_id for job in table],
        "followed": [job.prompt_id for jobs in table._followed.values() for job in jobs],
        "on account": [id_ for jobs in table._on_account.values() for id_ in jobs],
        "live ids": list(table.cloud_ids),
        "queue": len(scheduler.queue),
        "slots": {name: n for name in engine.accounts if (n := scheduler.used(name))},
        "slots of members": {who: n for who, n in scheduler._on_cloud.items() if n},
        "busy clients": {who: n for who, n in scheduler._busy.items() if n},
        "changes": len(engine.recorder._changed),
    }
    most = MAX_TABLE if run.plan.deployment is None else MAX_TABLE_WITH_OWN_NODES
    if run.plan.is_rush:  # there are enough jobs of one term to see what each leaves
        most = min(most, sum(job.outcome == "accepted" for job in run.jobs) - 1)
    ids = {part for job in run.jobs for part in (job.prompt_id, (job.client.member, job.prompt_id))}
    ids |= {job.id for job in run.world.cloud_jobs()}
    for path, items in tables((parts.files, service, engine, parts.webhooks)):
        if len(items) > most:
            left[path] = len(items)
        if known := [item for item in items if _is_one_of(item, ids)]:
            left[f"jobs in {path}"] = known[:3]
    found = {name: value for name, value in left.items() if value}
    if found:
        raise BrokenPromiseError("left_behind", f"{replica.name} {found}")
    names = Counter(task.get_name() for task in replica.process.unfinished())
    several = {
        name: count
        for name, count in names.items()
        if name.startswith(("job ", "read job", "cancel"))
    }
    if several:
        raise BrokenPromiseError("left_behind", f"{replica.name} tasks {several}")
