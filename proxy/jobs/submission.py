"""From a client's request to a job that the engine has accepted.

A submission is checked, and in the storage before the engine learns of it.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from msgspec import Struct

from proxy.bus import EventBus
from proxy.jobs.conversion import job_of_request, payload_of, stored_of, used
from proxy.jobs.estimates import JobEstimator, OverBudgetError
from proxy.jobs.messages import (
    EngineAnswer,
    JobAnswered,
    JobReceived,
    JobReleased,
    QueueChanged,
    SocketClosed,
    SocketKnown,
)
from proxy.jobs.models import Job, JobRequest
from proxy.jobs.views import LiveJobs
from proxy.members.accounting import Limiter
from proxy.members.member import Member, Parallelism, check_classes
from proxy.storage.database import BusyError, OutcomeUnknownError, StorageError
from proxy.storage.jobs import (
    DayFullError,
    JobKey,
    JobLivesError,
    JobRepository,
    Numbering,
    QueueFullError,
)
from proxy.storage.usage import day_of
from proxy.threads import ThreadTurns
from proxy.translate.errors import LocalError
from proxy.translate.jobs import file_strings, foreign_files, has_more_values
from proxy.translate.packs import NodePacks
from proxy.translate.validation import Validation, validate

if TYPE_CHECKING:
    from proxy.catalog.service import Catalog
    from proxy.files.service import Files
    from proxy.members.directory import Directory

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A catalog that is older (seconds) is fetched again before a graph is refused by it. So a typing
#: error costs a call of the cloud at most once in this time, and new classes and models are known.
FRESH = 60.0

#: Graphs with more nodes are validated by the cloud only: validation blocks the event loop.
_MAX_NODES = 5_000
#: Maximum number of values of a graph that is read on the event loop: that takes a few ms.
_MAX_VALUES_AT_ONCE = 5_000
#: Maximum number of different strings of a graph that are looked up as names of files.
_MAX_FILE_STRINGS = 20_000

#: Jobs below its limit from which a member's waiting jobs are counted exactly.
_COUNTED = 1_000


def poll_interval(bus: EventBus) -> float:
    """Return the seconds between two reads of the storage while the engine has not answered on the
    bus."""
    return 1.0 if bus.connected else 0.3


@dataclass(eq=False, repr=False)
class Checks:
    """The checks of all members' graphs.

    Without `validates` only what the member may use is looked at. The catalog is waited for at most
    `catalog_timeout` seconds.
    """

    catalog: Catalog
    files: Files
    members: Directory
    packs: NodePacks
    validates: bool
    catalog_timeout: float
    turns: ThreadTurns = dataclass_field(default_factory=ThreadTurns)

    async def check(self, member: str, request: JobRequest) -> Validation | None:
        """Return what is right and wrong with a graph; `None` if only the cloud can tell.

        Raises `LocalError`: 400 as ComfyUI refuses graphs, 403 for nodes that the member may not
        use.
        """
        loaded = await self.catalog.wait_loaded(self.catalog_timeout)
        validates = loaded and self.validates and len(request.graph) <= _MAX_NODES
        has_file = await self._files_of(member, request.graph, validates=validates)
        found = await self._validated(member, request, has_file) if validates else None
        if found is not None and found.error is not None:
            kinds = {
                error["type"] for about in found.node_errors.values() for error in about["errors"]
            }
            log.info("graph_refused", kind=found.error["type"], errors=sorted(kinds))
            raise LocalError(**found.error, node_errors=found.node_errors)
        if self.members.has_members:
            node_errors = await self._run(
                member, request.graph, partial(foreign_files, request.graph, has_file)
            )
            if node_errors:
                raise LocalError(
                    "prompt_outputs_failed_validation",
                    "Prompt outputs failed validation",
                    node_errors=node_errors,
                )
        if (needs := self.catalog.accounts_for(request.graph)) is not None:
            self._check_accounts(member, *needs)
        who = self.members.get(member)
        if who.limits.denied_classes or who.limits.deny_partner_nodes:
            check_classes(who, request.graph, self.catalog.known)
        return found

    def _check_accounts(self, member: str, accounts: frozenset[str], name: str) -> None:
        """Raise `LocalError` if no account of the member has all that a graph names."""
        if accounts.isdisjoint(self.catalog.allowed(member)):
            raise LocalError(
                "models_of_several_accounts",
                f"No Comfy Cloud account that you may use has all models of this workflow. {name} "
                "is in some accounts only: import the models into one account, or choose others.",
            )

    async def _files_of(
        self, member: str, graph: dict[str, Any], *, validates: bool
    ) -> Callable[[str], bool]:
        """Return which strings of a graph name files of the member. Raises `LocalError`."""
        private = self.members.has_members
        if not validates and not private:
            return lambda _: True
        strings = await self._run(member, graph, partial(file_strings, graph, self.catalog.known))
        if len(strings) > _MAX_FILE_STRINGS:
            raise LocalError(
                "too_many_files",
                f"The workflow has {len(strings):,} different values that may be names of files "
                f"and at most {_MAX_FILE_STRINGS:,} are looked up; split it.",
                kind="too_large",
            )
        return await self.files.owned(member, strings, private=private)

    async def _validated(
        self, member: str, request: JobRequest, has_file: Callable[[str], bool]
    ) -> Validation | None:
        found = await self._validate(member, request, has_file)
        if found.lacks_names:
            # A model may have been imported, or a class added, a moment ago: only a fresh list
            # refuses, and where there is none the cloud decides.
            if not await self.catalog.reread(member):
                return None
            found = await self._validate(member, request, has_file)
        elif not found.faultless and await self.catalog.renew(FRESH):
            found = await self._validate(member, request, has_file)
        if not found.faultless and await self._is_replaced(request.graph):
            return None
        return found

    async def _validate(
        self, member: str, request: JobRequest, has_file: Callable[[str], bool]
    ) -> Validation:
        shapes, graph = await self.catalog.shapes(member), request.graph
        work = partial(validate, graph, request.targets, shapes, has_file=has_file)
        return await self._run(member, graph, work)

    async def _run(self, member: str, graph: dict[str, Any], work: Callable[[], T]) -> T:
        """Run work whose length depends on a graph: in a thread, in the member's turn, if it is
        large."""
        if not has_more_values(graph, _MAX_VALUES_AT_ONCE):
            return work()
        return await self.turns.run(member, work)

    async def _is_replaced(self, graph: Mapping[str, Any]) -> bool:
        """Return whether the cloud will see another graph than this, with newer classes."""
        replaced = await self.catalog.node_replacements()
        return any(str(node.get("class_type")) in replaced for node in graph.values())


@dataclass(kw_only=True, eq=False, repr=False)
class SubmissionService:
    """The entrance for the jobs of all members.

    The `limiter` is asked before anything else whether a member may submit now, the `checks`
    whether the graph can run. A submission that the engine has not started after `timeout`
    seconds is withdrawn. `member` gives the limits of a member, `clients` knows who listens. The
    `estimator` says what jobs of members with budgets will cost.
    """

    bus: EventBus
    repository: JobRepository
    live: LiveJobs
    clients: Clients
    member: Callable[[str], Member]
    limiter: Limiter
    checks: Checks | None = None
    estimator: JobEstimator | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        self.bus.subscribe("sockets", self.clients.hear)

    async def submit(self, member: str, request: JobRequest) -> dict[str, Any]:
        """Take a job in; its messages wait for `release`. Raises `LocalError`.

        Returns the answer of `POST /prompt`: `prompt_id`, `number` and `node_errors`. The number
        advances for refused requests too, as in ComfyUI. Raises `BusyError` without looking at the
        request while jobs come faster than they can be stored.
        """
        if self.repository.busy:
            raise BusyError("too many jobs wait to be stored")
        limits = self.member(member).limits
        if self._may_be_full(member) or limits.jobs_per_day is not None:
            waiting, submitted = await self.repository.used(member, day_of(time.time()))
            self.limiter.admit(member, waiting=waiting, submitted=submitted)
        prompt_id = request.prompt_id or str(uuid.uuid4())
        live = self.live.of(member)
        least = live.number
        if request.number is None:
            live.number += 1
        found = None if self.checks is None else await self.checks.check(member, request)
        if prompt_id in live.jobs:
            raise _in_the_queue(prompt_id)
        job = job_of_request(member, request, prompt_id=prompt_id)
        content = job.loaded
        job.one_at_a_time = self.clients.one_at_a_time(self.member(member), request.client_id)
        if found is not None and found.node_errors:
            # The cloud may take a graph that is partly wrong for one that is refused.
            content.targets = found.outputs
        if found is not None:
            content.graph = found.kept(content.graph)
            job.outputs_to_execute = tuple(found.outputs)
        if self.checks is not None:
            outputs = content.targets if found is None else found.outputs
            content.rewriting = await self.checks.packs.rewrite(member, content.graph, outputs)
        await self._insert(job, None if request.number is not None else least, request.front)
        live.answering += 1
        try:
            node_errors = await self._answer(job, None if found is None else found.node_errors)
        except BaseException:
            live.answering -= 1
            self.bus.publish("engine", JobReleased(job.key, watched=True))
            self.bus.publish(f"jobs.{member}", QueueChanged(member))
            raise
        return {"prompt_id": prompt_id, "number": job.number, "node_errors": node_errors}

    def _may_be_full(self, member: str) -> bool:
        """Return whether the storage has to count the member's waiting jobs.

        It does not while much fewer are known here than a large limit allows: to count thousands
        costs more than to store a job.
        """
        limit = self.member(member).limits.max_queued
        if limit is None:
            return False
        live = self.live.of(member)
        return len(live.jobs) + live.answering >= limit - _COUNTED

    async def _insert(self, job: Job, least: int | None, front: bool) -> None:
        """Put a new job into the storage, which numbers it. Raises `LocalError`, `StorageError`."""
        payload, limits = payload_of(job.loaded), self.member(job.member).limits
        budgets, reservation = self.limiter.budgets(job.member), None
        if self.estimator is not None and budgets.all:
            reservation = await self.estimator.reservation(job, budgets)
        try:
            stored = await self.repository.insert(
                stored_of(job),
                payload,
                numbering=None if least is None else Numbering(least, front),
                usage=[used(job, submitted=1)],
                max_per_day=limits.jobs_per_day,
                max_waiting=limits.max_queued if self._may_be_full(job.member) else None,
                reservation=reservation,
            )
        except JobLivesError:
            raise _in_the_queue(job.prompt_id) from None
        except DayFullError:
            raise self.limiter.day_is_full(job.member) from None
        except QueueFullError as error:
            raise self.limiter.queue_is_full(job.member, error.waiting) from None
        except OverBudgetError as error:
            raise self.limiter.over_budget(
                error.budget, left=error.left, estimate=error.estimate
            ) from None
        job.order, job.number, job.estimate = stored.order, stored.number, stored.estimate
        self.live.of(job.member).note_number(job.number)
        self.live.keep_sent(job.member, job.order, payload)

    async def _answer(self, job: Job, found: dict[str, Any] | None) -> dict[str, Any]:
        """Return the node errors of a job that the engine has accepted. Raises `LocalError`.

        The engine may change meanwhile, and the bus lose its answer; then the storage tells.
        """
        with EngineAnswer(
            self.bus, f"answers.{job.member}.{job.prompt_id}", JobAnswered
        ) as answered:
            self.bus.publish("engine", JobReceived(job.key, job.order, found, job))
            waited, gone = 0.0, False
            while (answer := await answered.within(wait := poll_interval(self.bus))) is None:
                waited += wait
                try:
                    row = await self.repository.get(job.member, job.prompt_id)
                    if row is not None and row.order == job.order:
                        if row.accepted:
                            return found or {}
                        if waited >= self.timeout and await self.repository.withdraw(
                            job.order, usage=[used(job, submitted=-1)]
                        ):
                            raise _not_taken_up()
                    elif await self.repository.history.has(job.order):
                        return found or {}
                    elif gone:
                        raise _not_taken_up()
                    else:
                        gone = True  # the answer may be under way
                except StorageError as error:
                    log.warning("job_look_failed", job=job.prompt_id, error=str(error))
                    if waited >= self.timeout:
                        raise OutcomeUnknownError(
                            "the database went away before the engine took the job"
                        ) from error
        if answer.error is not None:
            raise answer.error
        await self.bus.flush()
        return answer.node_errors or {}

    def release(self, member: str, prompt_id: str) -> None:
        """Release `status` and the messages of a job, once the client has its answer."""
        live = self.live.of(member)
        live.answering -= 1
        job = live.jobs.get(prompt_id)
        listens = job is not None and self.clients.listens(member, job.client_id)
        self.bus.publish(f"jobs.{member}", QueueChanged(member))
        self.bus.publish("engine", JobReleased(JobKey(member, prompt_id), watched=listens))


def _in_the_queue(prompt_id: str) -> LocalError:
    return LocalError(
        "duplicate_prompt_id",
        "A job with this prompt_id is in the queue; use another one.",
        kind="conflict",
        details=prompt_id,
    )


def _not_taken_up() -> LocalError:
    return LocalError(
        "submission_withdrawn",
        "The job was not sent in time. It will not run; submit it again.",
        kind="unavailable",
        retry_after=5.0,
    )


class _Known(Struct):
    """A client: its newest socket while that is open, and whether it tells the messages of several
    jobs apart."""

    socket: str | None = None
    several: bool = False


class Clients:
    """The clients of each member by their `client_id`, with or without an open socket, at any
    replica.

    A local ComfyUI runs one job after the other, and programs rely on it: many follow one job at a
    time and lose track of a second one. `parallelism` holds for members that have no choice of
    their own; `limit` bounds the clients of a member that are remembered, each with some 200 bytes.
    """

    def __init__(self, parallelism: Parallelism = "auto", *, limit: int = 1000) -> None:
        self._parallelism = parallelism
        self._limit = limit
        self._known: defaultdict[str, OrderedDict[str, _Known]] = defaultdict(OrderedDict)

    def hear(self, news: object) -> None:
        """Take what replicas say of their sockets."""
        match news:
            case SocketKnown(member=member, client_id=client_id, socket=socket, several=several):
                known = self._note(member, client_id)
                known.socket = socket
                known.several |= several
            case SocketClosed(member=member, client_id=client_id, socket=socket):
                closed = self._known[member].get(client_id)
                if closed is not None and closed.socket == socket:
                    closed.socket = None

    def listens(self, member: str, client_id: str | None) -> bool:
        """Return whether the client has a socket."""
        known = None if client_id is None else self._known[member].get(client_id)
        return known is not None and known.socket is not None

    def one_at_a_time(self, member: Member, client_id: str | None) -> bool:
        """Return whether a job that the client submits now has to wait for the client's other jobs.

        With `auto` those of a client do that has listened on a socket, unless the socket has
        announced more: who never listens asks for its job by id.
        """
        parallelism = member.client_parallelism or self._parallelism
        if parallelism != "auto":
            return parallelism == "one"
        known = None if client_id is None else self._known[member.name].get(client_id)
        return known is not None and not known.several

    def _note(self, member: str, client_id: str) -> _Known:
        clients = self._known[member]
        known = clients.setdefault(client_id, _Known())
        clients.move_to_end(client_id)
        if len(clients) > self._limit:
            clients.popitem(last=False)
        return known
