"""What members may use, and in which order their jobs go to the cloud."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from simulation.database import server
from simulation.promises import BrokenPromiseError

from proxy.members.member import Limits

if TYPE_CHECKING:
    from simulation.clients import Submission
    from simulation.run import Run

#: Seconds that a job may be in the queue of the engine later than its client has its answer.
_LATE = 1.0
#: Seconds within which jobs that are sent at once may overtake each other on their way.
_WAY = 0.3


class Sent(NamedTuple):
    """A job that the cloud has got, and when."""

    at: float
    job: Submission

    @property
    def member(self) -> str:
        """Whose it is."""
        return self.job.client.member


def check_turns(run: Run) -> None:
    """Compare what each member has got with its limits, and with what others have got."""
    _check_limits(run)
    _check_numbers(run)
    if run.plan.is_rush:
        sent = _sent(run)
        _check_order(sent)
        _check_fairness(sent, {member.name: member.weight for member in run.plan.members})


def _check_limits(run: Run) -> None:
    # Such a job runs until it is cancelled, one whose answer was lost may not be found, and one at
    # an account that the settings do not name any longer is nobody's to count.
    deployment = run.plan.deployment
    forgets = deployment is not None and deployment.labels != "kept"
    removed = any(fault.kind == "account_removed" for fault in run.plan.faults)
    gives_up = "value_refused" in run.plan.rates or forgets or removed
    for name, known in run.world.limits.items():
        limits, least = _loosest(known), _tightest(known)
        own = [job for job in run.jobs if job.client.member == name]
        most = run.world.most_live[name]
        if limits.max_running is not None and not gives_up and most > limits.max_running:
            raise BrokenPromiseError("limit_passed", f"{most} jobs of {name} at once")
        if name in server().overfull:
            raise BrokenPromiseError("limit_passed", f"too many jobs of {name} wait")
        if limits.jobs_per_day is not None and not run.plan.is_long:
            kept = {job.prompt_id for job in own if not job.unwanted}  # what is withdrawn is free
            ran = {job.mark for job in run.world.cloud_jobs() if job.mark.split("/")[1] in kept}
            if len(ran) > limits.jobs_per_day:
                raise BrokenPromiseError("limit_passed", f"{len(ran)} jobs of {name} on a day")
        _check_refusals(own, {"jobs_per_day": least.jobs_per_day, "max_queued": least.max_queued})


def _loosest(known: list[Limits]) -> Limits:
    """Return the highest of each limit that a member has had."""
    return Limits(*(None if None in values else max(values) for values in _numbers(known)))


def _tightest(known: list[Limits]) -> Limits:
    """Return the lowest of each limit that a member has had."""
    found = ([value for value in values if value is not None] for values in _numbers(known))
    return Limits(*(min(values) if values else None for values in found))


def _numbers(known: list[Limits]) -> list[tuple[Any, ...]]:
    numbers = [(each.max_queued, each.max_running, each.jobs_per_day) for each in known]
    return list(zip(*numbers, strict=True))


def _check_refusals(own: list[Submission], limits: dict[str, int | None]) -> None:
    """A limit refuses nobody who is below it, whatever becomes of the jobs before."""
    for job in own:
        if job.refusal in limits:
            before = [each for each in own if each.at <= job.answered_at]
            # A job that had ended when its id came again was taken once more.
            taken = sum(
                each.attempts
                for each in before
                if each.refusal not in limits or each.submitted_again
            )
            limit = limits[job.refusal]
            if limit is None or taken < limit:
                about = f"{job.prompt_id} was refused by {job.refusal} after {taken}"
                raise BrokenPromiseError("limit_passed", about)


def _check_numbers(run: Run) -> None:
    """A number is what was wanted, else above all of the member before it, or negative in front."""
    answered = [job for job in run.jobs if job.outcome == "accepted" and not job.submitted_again]
    for job in answered:
        number = job.number
        assert number is not None
        if job.wanted is not None:
            is_right = number == job.wanted
        else:
            earlier = [
                abs(other.number or 0)
                for other in answered
                if other.client.member == job.client.member
                and other.wanted is None
                and other.answered_at < job.at
            ]
            is_right = (number <= 0 or not job.front) and all(abs(number) > n for n in earlier)
        if not is_right:
            raise BrokenPromiseError("out_of_order", f"{job.prompt_id} has the number {number}")


def _sent(run: Run) -> list[Sent]:
    """Return the jobs of the cloud in the order in which they came."""
    by_id = {job.prompt_id: job for job in run.jobs}
    jobs = sorted(run.world.cloud_jobs(), key=lambda job: job.created)
    return [
        Sent(run.world.seconds_at(job.created), by_id[job.mark.split("/")[1]])
        for job in jobs
        if job.mark
    ]


def _waiting(sent: list[Sent], place: int) -> list[Submission]:
    """Return the jobs that have waited for a while when another one is sent, and go later."""
    at = sent[place].at
    later = [each.job for each in sent[place + 1 :]]
    return [job for job in later if job.outcome == "accepted" and job.answered_at < at - _LATE]


def _check_order(sent: list[Sent]) -> None:
    """Nothing goes before what its member has in front of it."""
    sent_at = {each.job: each.at for each in sent}
    for place, (at, job) in enumerate(sent):
        for other in _waiting(sent, place):
            is_own = other.client.member == job.client.member and sent_at[other] > at + _WAY
            if is_own and other.number is not None and other.number < (job.number or 0):
                about = f"{job.number} went before {other.number}: {other.prompt_id}"
                raise BrokenPromiseError("out_of_order", about)


def _check_fairness(sent: list[Sent], weights: dict[str, float]) -> None:
    """Members who have jobs waiting get turns by their weights: what one has got more than another
    is less than a turn of each, and one that was under way when they began to wait."""
    turns: Counter[str] = Counter()
    backlogged: set[str] = set()
    for place, each in enumerate(sent):
        now = {job.client.member for job in _waiting(sent, place)} | {each.member}
        if now != backlogged:
            turns.clear()
            backlogged = now
            continue
        turns[each.member] += 1
        got = {member: turns[member] / weights[member] for member in backlogged}
        most, least = max(got, key=got.__getitem__), min(got, key=got.__getitem__)
        bound = 2 / weights[most] + 1 / weights[least]
        if got[most] - got[least] > bound:
            raise BrokenPromiseError("out_of_turn", f"{dict(turns)} with {weights}")
