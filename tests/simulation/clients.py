"""The clients of a run: what they ask, what they hear, and what they are promised meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from simulation import workflows
from simulation.database import server
from simulation.passing import GoneError, Request
from simulation.plan import SPENDER, Action, ClientPlan
from simulation.promises import BrokenPromiseError
from simulation.replica import Parts, Replica
from simulation.weather import LOSSES

from proxy.jobs.models import JobRequest
from proxy.jobs.service import JobQuery, JobService
from proxy.storage.database import OutcomeUnknownError, StorageError
from proxy.translate.errors import LocalError
from proxy.translate.events import Event, Message, Preview, status

if TYPE_CHECKING:
    from simulation.run import Run

#: Seconds that a client waits for an answer.
_TIMEOUT = 60.0
#: Seconds between the looks of a client at a replica that has started: the proxy looks for a job
#: for 15.
_GLANCES = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)

#: Seconds after which a websocket knows that a newer one has its `clientId`.
_TOLD = 0.5

#: Seconds within which an engine that runs takes a job: a little less than a replica waits for it.
_TAKEN_TIMEOUT = 25.0

#: Seconds for which a client waits for a job that is being sent, to end it then.
_AIM = 20.0
_ON_ITS_WAY = (
    "SELECT prompt_id FROM jobs WHERE member = ? AND state IN ('submitting', 'unknown') "
    'ORDER BY state DESC, "order"'
)
#: One that waits, and counts as running where the member has no other.
_FIRST = (
    "SELECT prompt_id FROM jobs WHERE member = ? AND state = 'queued' AND accepted "
    'ORDER BY number, "order"'
)

#: The jobs of a member whose outputs are looked at: the last ones.
_LOOKED_AT = 6

#: Errors after which a client does not know whether its job was taken.
_UNKNOWN = (GoneError, TimeoutError, OutcomeUnknownError)


@dataclass(eq=False)
class Submission:
    """A job that a client has submitted; `outcome` is `accepted`, `refused` or `unknown`."""

    client: SimulatedClient
    prompt_id: str
    at: float
    outcome: str = "unknown"
    answered_at: float = 0.0
    #: Whether it was asked to end (`gone` leaves no trace), and when.
    unwanted: set[str] = field(default_factory=set)
    in_history: bool = False
    heard_over_at: float | None = None
    refusal: str = ""
    #: How often the client used the id, since it heard no answer.
    attempts: int = 0
    #: Whether its client was told that it is not known whether the job arrived.
    is_unconfirmed: bool = False
    #: Whether a poll has found it in a queue.
    was_seen: bool = False
    #: Whether it was to be in front of others, the number that it was to have, and that it has.
    front: bool = False
    wanted: float | None = None
    number: float | None = None

    @property
    def submitted_again(self) -> bool:
        """Whether the client used the id more than once."""
        return self.attempts > 1


@dataclass(eq=False)
class Socket:
    """A client's websocket, at the leader as a `jobs.subscribers.Subscriber`, or at a standby that
    passes it on, to one leader after the other."""

    client: SimulatedClient
    number: int
    #: Where it is open: the process, and what it is the subscriber of at the leader.
    process: Any = None
    parts: Parts | None = None
    opened_at: float = 0.0
    #: When the leader that it hears was told of it.
    attached_at: float = 0.0
    heard: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    #: Since when its standby has no leader for it.
    unheard_since: float | None = None
    #: When leaders began to tell it.
    attachments: list[float] = field(default_factory=list)
    silent_since: float | None = None
    #: Since when a newer one has its `clientId`, as its standby was told, too.
    replaced_at: float | None = None
    asks_for_previews: bool = True
    previews: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        """Whether messages still come."""
        is_there = self.process is not None and self.process.alive
        return self.silent_since is None and is_there and not self.ended.is_set()

    def attach_to(self, parts: Parts, subscriber: Any) -> None:
        """Let a subscriber at a leader hear for this one."""
        client = self.client
        if self.replaced_at is not None:
            client.run.fail(BrokenPromiseError("not_superseded", f"{client.client_id} again"))
        self.attached_at, self.unheard_since = client.world.seconds, None
        self.attachments.append(self.attached_at)
        if not self.opened.is_set():
            self.opened_at, self.process = self.attached_at, parts.replica.process
            self.opened.set()

        def greet() -> None:
            remaining = parts.jobs.queue_remaining(client.member)
            subscriber.send(status(remaining, client.client_id), for_all=False)

        age = self.attached_at - self.opened_at
        parts.jobs.attach(
            client.member, client.client_id, subscriber, greet, receives_all=False, age=age
        )

    def unheard(self) -> None:
        """Note that its standby has lost the leader."""
        if self.unheard_since is None:
            self.unheard_since = self.client.world.seconds

    def is_passed_on(self, process: Any) -> None:
        """Note at which standby it is."""
        self.process = process

    def send(self, message: Message, *, for_all: bool) -> None:
        """Take a message of the leader."""
        del for_all
        self.take(message)

    def take(self, message: Message) -> None:
        """Take a message."""
        if self.ended.is_set():
            return
        if isinstance(message, Event):
            self.client.heard(self, message.type, message.data)
        elif isinstance(message, Preview):
            self.client.saw(self, message)

    def superseded(self) -> None:
        """Hear no more: a newer one has the `clientId`."""
        self.silent_since = self.replaced_at = self.client.run.world.seconds

    def lose(self, _code: int | None) -> None:
        """End with the term of the leader at which it is open."""
        if self.parts is not None:
            self.parts.sockets.discard(self)
        self.lost()

    def lost(self) -> None:
        """End."""
        self.ended.set()


class SimulatedClient:
    """One program of a member."""

    def __init__(self, run: Run, number: int, plan: ClientPlan) -> None:
        self.run = run
        self.world = run.world
        self.member = plan.member
        self.listens = plan.listens
        self.client_id = f"client-{number}"
        self.socket: Socket | None = None
        self.sockets: list[Socket] = []
        self._rng = random.Random(f"{run.plan.seed} client {number}")
        self._opening = asyncio.Lock()

    # --- what it does ----------------------------------------------------------------------

    async def act(self, action: Action) -> None:
        """Do what the plan says."""
        rng = random.Random(action.seed)
        own = [job for job in self.run.jobs if job.client.member == self.member]
        match action.kind:
            case "submit" | "submit_front" | "submit_number":
                number = float(rng.randint(-9, 9)) if action.kind == "submit_number" else None
                await self.submit(rng, front=action.kind == "submit_front", number=number)
            case "burst":
                await asyncio.gather(*(self.submit(rng) for _ in range(rng.randint(3, 8))))
            case "reconnect":
                self.hang_up()
                await self.listen()
            case "second":
                await self._open_second()
            case "look":
                await self._look(rng)
            case "cancel_sent" | "interrupt_sent":
                if (job := await self._wait_for(_ON_ITS_WAY)) is not None:
                    await self._end(action.kind.removesuffix("_sent"), job, rng)
            case "interrupt_killed":
                if (job := await self._wait_for(_FIRST)) is not None:
                    await self._end("interrupt", job, rng, and_kill=True)
            case _ if own:
                await self._end(action.kind, rng.choice(own), rng)

    async def _wait_for(self, statement: str) -> Submission | None:
        """Wait for an own job that a statement finds; return it, if there is one within a while."""
        ends = self.world.seconds + _AIM
        while self.world.seconds < ends and not self.run.over:
            row = server().raw.execute(statement, (self.member,)).fetchone()
            if row is not None:
                return self.run.find(row[0])
            await asyncio.sleep(0.02)
        return None

    async def submit(
        self, rng: random.Random, *, front: bool = False, number: float | None = None
    ) -> None:
        """Submit a job, again with the same id where no answer came."""
        prompt_id = str(UUID(int=rng.getrandbits(128), version=4))
        graph = workflows.drawn(rng, self.run.plan, partner=self.member == SPENDER)
        for name in workflows.files_of(graph):
            await self._upload(rng, name)
        job = Submission(self, prompt_id, self.world.seconds, front=front, wanted=number)
        # What is cleared meanwhile may be this one.
        job.unwanted = {kind for member, kind in self.run.ending if member == self.member}
        self.run.jobs.append(job)
        request = JobRequest(
            graph=graph,
            client_id=self.client_id if self.listens else None,
            prompt_id=job.prompt_id,
            number=number,
            front=front,
            extra_data={"client_id": self.client_id} if self.listens else {},
            submitter=self.client_id,
        )
        for attempt in range(3):
            replica = self.run.any_replica(rng)
            if replica is None:
                await asyncio.sleep(1.0)
                continue
            job.attempts += 1
            self.world.to_end.discard(job.prompt_id)  # this is another one
            job.outcome, job.refusal = await self._submit(replica, request, attempt)
            if job.outcome != "unknown":
                break
            await asyncio.sleep(rng.uniform(0.1, 3.0))
        job.answered_at = self.world.seconds
        self.world.note("client", job.prompt_id, job.outcome, job.refusal)
        self._check_taken(job)
        if job.outcome == "accepted":
            self.run.spawn(self._watch(job, rng))

    async def _upload(self, rng: random.Random, name: str) -> None:
        """Upload a file, if a replica takes it."""
        replica = self.run.any_replica(rng)

        async def body() -> AsyncIterator[bytes]:
            yield name.encode()

        async def upload(parts: Parts, *_: Any) -> None:
            await parts.files.upload(self.member, body(), filename=name)

        if replica is not None:
            with contextlib.suppress(GoneError, TimeoutError, LocalError, StorageError):
                await replica.ask(Request(upload, "POST", "/upload"), _TIMEOUT)

    async def _submit(self, replica: Replica, request: JobRequest, attempt: int) -> tuple[str, str]:
        async def work(parts: Parts, send: Callable[[Any], None], asked: Request) -> Any:
            self._check_access(parts)
            submitted = parts.jobs.submissions.submitted
            async with submitted(self.member, request, again=asked.again) as answer:
                send(answer)
            return answer

        self.world.note("client", request.prompt_id or "", "submits", f"at {replica.name}")
        job = self.run.find(request.prompt_id or "")
        assert job is not None
        try:
            job.number = (await replica.ask(Request(work, "POST", "/prompt"), _TIMEOUT))["number"]
        except _UNKNOWN as error:
            return "unknown", repr(error)
        except LocalError as error:
            if error.kind == "unconfirmed":
                job.is_unconfirmed = True
            unconfirmed = error.kind == "unconfirmed" or self._is_lost(error) or attempt > 0
            limit = error.details if error.kind == "rate_limited" else ""
            return "unknown" if unconfirmed else "refused", limit or error.type
        except StorageError as error:
            return "unknown" if attempt else "refused", str(error)
        if self.world.weather.chance("answer_to_client_lost"):
            return "unknown", "the answer was lost"
        return "accepted", ""

    def _is_lost(self, error: LocalError) -> bool:
        """Return whether a job may run that cannot be found on a deployment."""
        deployment = self.run.plan.deployment
        return error.type == "JobLost" and deployment is not None and deployment.labels != "kept"

    def _check_taken(self, job: Submission) -> None:
        """An engine that runs takes a job."""
        if (job.outcome, job.refusal) != ("refused", "submission_withdrawn") or job.unwanted:
            return
        had = job.answered_at - max(job.at, self.world.steady_since)
        if had > _TAKEN_TIMEOUT and not job.submitted_again:
            raise BrokenPromiseError("not_taken", job.prompt_id)

    async def give_up(self, job: Submission) -> None:
        """Cancel a job that does not come to its turn."""
        await self._end("cancel", job, self._rng)

    async def _end(
        self, kind: str, job: Submission, rng: random.Random, *, and_kill: bool = False
    ) -> None:
        """Ask for the end of a job, or of several; the engine may be killed when that is
        answered."""
        id_, member = job.prompt_id, self.member
        calls: dict[str, tuple[Callable[[JobService], Any], Iterable[Submission]]] = {
            "cancel": (lambda jobs: jobs.cancel(member, id_), [job]),
            "delete": (lambda jobs: jobs.delete_pending(member, [id_]), [job]),
            "interrupt": (lambda jobs: jobs.interrupt(member, id_), [job]),
            "clear": (lambda jobs: jobs.delete_pending(member, None), self._own()),
            "interrupt_own": (
                lambda jobs: jobs.interrupt(member, None, client_id=self.client_id),
                self._own(),
            ),
        }
        call, concerned = calls[kind]
        for each in concerned:
            each.unwanted.add(kind)
        several = kind in ("clear", "interrupt_own")
        self.world.note("client", "" if several else id_, kind)
        if several:
            self.run.ending.append((member, kind))
        asked_at = self.world.seconds
        sent = {job.mark.split("/")[1] for job in self.world.cloud_jobs()}
        before = await self._queue(rng)
        answered, value = await self._answer(rng, call, is_repeated=False)
        if and_kill and answered:
            self.run.kill_engine()
        after = await self._queue(rng) if answered else None
        come = {each for each in self._own() if not 0 < each.answered_at < asked_at}
        for each in concerned:
            if kind.startswith("interrupt") and come - {each}:
                continue  # which one counts as running may have changed meanwhile
            if kind == "interrupt_own" and not (each.client is self and self.listens):
                continue  # it has another client's id, or none
            if answered and _is_to_end(each, kind, value, asked_at, sent, before, after):
                self.world.to_end.add(each.prompt_id)
        if several and self.world.seconds < asked_at + _TIMEOUT:  # else it may still come
            self.run.ending.remove((member, kind))

    async def _queue(self, rng: random.Random, replica: Replica | None = None) -> str | None:
        """Return the queue that a replica or any one shows, if it does."""
        queue = await self._ask(rng, lambda jobs: jobs.queue_json(self.member), replica)
        return queue.decode() if isinstance(queue, bytes) else None

    def _own(self) -> list[Submission]:
        return [job for job in self.run.jobs if job.client.member == self.member]

    async def _look(self, rng: random.Random) -> None:
        await self._ask(rng, lambda jobs: jobs.list_jobs(self.member, JobQuery()))
        await self._ask(rng, lambda jobs: jobs.overview(self.member))

    async def _ask(
        self, rng: random.Random, call: Callable[[JobService], Any], replica: Replica | None = None
    ) -> Any:
        """Ask a replica, or any one; return `None` where it refuses or is not there."""
        return (await self._answer(rng, call, replica))[1]

    async def _answer(
        self,
        rng: random.Random,
        call: Callable[[JobService], Any],
        replica: Replica | None = None,
        *,
        is_repeated: bool = True,
    ) -> tuple[bool, Any]:
        """Ask a replica, or any one; return whether it has answered, and what."""
        replica = replica or self.run.any_replica(rng)
        if replica is None:
            return False, None

        async def work(parts: Parts, *_: Any) -> Any:
            self._check_access(parts)
            found = call(parts.jobs)
            return await found if inspect.isawaitable(found) else found

        try:
            request = Request(work) if is_repeated else Request(work, "POST")
            return True, await replica.ask(request, _TIMEOUT)
        except (GoneError, TimeoutError, LocalError, StorageError):
            return False, None

    def _check_access(self, parts: Parts) -> None:
        """Stands for the authentication by a token. Raises `LocalError`."""
        access = parts.members.access(server().tokens[self.member])
        self.world.check_access(self.member, granted=access is not None)
        if access is None:
            raise LocalError("unauthorized", "The token is not valid.", kind="unauthenticated")

    # --- what it watches -------------------------------------------------------------------

    async def _watch(self, job: Submission, rng: random.Random) -> None:
        """Look for an accepted job again and again: it is in the queue or in the history."""
        pause = 0.3
        while not self.run.over and not job.in_history:
            await asyncio.sleep(rng.uniform(0.0, 2 * pause))
            pause = min(pause * 1.5, 10.0)
            await self.poll(job, rng)

    async def glance(self, replica: Replica) -> None:
        """Look again and again which jobs of before a replica shows that has just started."""
        earlier = self._own()
        for wait in _GLANCES:
            await asyncio.sleep(wait)
            if not replica.serves:
                return
            queue = await self._ask(self._rng, lambda jobs: jobs.queue_json(self.member), replica)
            for job in earlier:
                if isinstance(queue, bytes) and f'"{job.prompt_id}"' in queue.decode():
                    job.was_seen = True

    async def poll(
        self, job: Submission, rng: random.Random, replica: Replica | None = None
    ) -> None:
        """Look for an accepted job, first at a replica or any one: it is somewhere."""
        asked_at = self.world.seconds
        if (queue := await self._queue(rng, replica)) is None:
            return
        queued = f'"{job.prompt_id}"' in queue
        over = job.heard_over_at
        if queued and over is not None and over < asked_at:
            self._stays_in_queue(job, asked_at)
        if queued:
            return
        entry = await self._ask(rng, lambda jobs: jobs.history_json(self.member, job.prompt_id))
        if entry is None:
            return
        if json.loads(entry):
            job.in_history = True
        elif not job.unwanted:
            raise BrokenPromiseError("neither_queue_nor_history", job.prompt_id)

    async def look_at_the_end(self) -> None:
        """No replica shows a job when none is under way, and what jobs have made is there."""
        for job in self._own()[-_LOOKED_AT:]:
            if job.client is self and job.in_history and not job.unwanted:
                await self._look_at_outputs(job)
        for replica in self.run.replicas:

            async def work(parts: Parts, *_: Any) -> Any:
                return await parts.jobs.queue_json(self.member)

            try:
                queue = json.loads(await replica.ask(Request(work), _TIMEOUT))
            except GoneError:
                self.run.fail(BrokenPromiseError("left_behind", f"{replica.name} does not serve"))
                return
            if queue["queue_running"] or queue["queue_pending"]:
                self.run.fail(BrokenPromiseError("left_behind", f"{replica.name} {queue}"))

    async def _look_at_outputs(self, job: Submission) -> None:
        """What the history names is what the nodes of a job have made."""
        entry = await self._ask(
            self._rng, lambda jobs: jobs.history_json(self.member, job.prompt_id)
        )
        found = None if entry is None else json.loads(entry).get(job.prompt_id)
        for node, outputs in () if found is None else found["outputs"].items():
            for number, file in enumerate(file for files in outputs.values() for file in files):
                content = await self._content(file) if isinstance(file, dict) else None
                if content is not None and not _is_of(content, job, f"{node}.{number}"):
                    about = f"{node} of {job.prompt_id} is {file}: {content!r}"
                    self.run.fail(BrokenPromiseError("output_differs", about))

    async def _content(self, file: dict[str, Any]) -> bytes | None:
        """Return a file, `None` where no replica has it for its client."""
        replica = self.run.any_replica(self._rng)

        async def work(parts: Parts, *_: Any) -> bytes | None:
            names = file["type"], file["subfolder"], file["filename"]
            record = await parts.files.find(self.member, *names)
            if record is None:
                return b"nothing"
            with contextlib.closing(await parts.files.open(record)) as content:
                return b"".join([piece async for piece in content.read()])

        try:
            return None if replica is None else await replica.ask(Request(work), _TIMEOUT)
        except (GoneError, TimeoutError, LocalError, StorageError):
            return None

    # --- its socket ------------------------------------------------------------------------

    async def listen(self) -> None:
        """Open a websocket at a replica, and another one whenever it is lost."""
        async with self._opening:
            while self.listens and not self.run.over:
                if self.socket is None or not self.socket.is_open:
                    await self._open()
                if self.socket is not None:
                    return
                await asyncio.sleep(self._rng.uniform(0.2, 2.0))

    async def keep_listening(self) -> None:
        """Connect again whenever the connection is lost."""
        while not self.run.over:
            await self.listen()
            await asyncio.sleep(self._rng.uniform(0.3, 1.5))

    async def _open(self) -> None:
        replica = self.run.any_replica(self._rng)
        self.socket = None
        if replica is None:
            return
        socket = Socket(self, self.world.numbered())

        async def work(parts: Parts, *_: Any) -> None:
            if socket.ended.is_set():
                return  # its client has gone
            self._check_access(parts)
            socket.parts = parts
            parts.sockets.add(socket)
            socket.attach_to(parts, socket)

        async def connect() -> None:
            with contextlib.suppress(GoneError, LocalError):
                await replica.connect(Request(work, "GET", "/ws", socket=socket))
                if socket.parts is not None:
                    return  # it is open at the leader, whatever becomes of this
            socket.lost()

        self.run.spawn(connect())
        opened, ended = (
            asyncio.ensure_future(event.wait()) for event in (socket.opened, socket.ended)
        )
        await asyncio.wait({opened, ended}, timeout=10.0, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        ended.cancel()
        if socket.is_open:
            self.socket = socket
            self.sockets.append(socket)
        else:
            socket.lost()

    async def _open_second(self) -> None:
        """Open a websocket with the same `clientId` beside the one that is open, which is closed if
        it is not told so: its standby, which has just lost the leader, may open it again later."""
        async with self._opening:
            older = self.socket
            if older is None or not older.is_open:
                return
            await self._open()
            await asyncio.sleep(_TOLD)
            if older.replaced_at is None:
                older.silent_since = self.world.seconds
                older.lost()

    def hang_up(self) -> None:
        """Close the socket, of which its process hears."""
        socket, self.socket = self.socket, None
        if socket is None or not socket.is_open:
            return
        socket.silent_since = self.world.seconds
        socket.lost()
        if (parts := socket.parts) is None:
            return
        parts.sockets.discard(socket)

        def detach() -> None:
            parts.jobs.subscribers.detach(self.member, self.client_id, socket)

        if parts.replica.parts is parts:
            self.world.loop.in_world(0.005, parts.replica.run_in_process, detach)

    def heard(self, socket: Socket, type_: str, data: dict[str, Any]) -> None:
        """Take a message of a socket."""
        if socket.replaced_at is not None and data.get("prompt_id"):
            self.run.fail(BrokenPromiseError("not_superseded", f"{self.client_id} {type_}"))
        if socket.silent_since is not None:
            return
        at, id_ = self.world.seconds, str(data.get("prompt_id", ""))
        socket.heard.append((at, type_, data))
        if not id_:
            return
        job = self.run.by_id.get(id_) or self.run.find(id_)
        if job is None or job.client.member != self.member:
            self.run.fail(BrokenPromiseError("message_of_another_member", id_))
            return
        if type_ == "executing" and data.get("node") is None:
            job.heard_over_at = at
            self.run.spawn(self._look_into_queue(job))
        if type_ in ("execution_success", "execution_error", "execution_interrupted"):
            self.run.spawn(self._look_into_history(job))

    def saw(self, socket: Socket, preview: Preview) -> None:
        """Take a preview: it is of an own job, whose last message has not been heard."""
        if socket.silent_since is not None:
            return
        socket.previews += 1
        job = self.run.find(preview.prompt_id)
        member, _, shown = preview.image.removeprefix(b"\x89PNG").decode().partition("/")
        if member != self.member:
            about = f"{preview.prompt_id} has a picture of {member or 'a stranger'} {shown}"
            self.run.fail(BrokenPromiseError("message_of_another_member", about))
        elif not shown.startswith(preview.prompt_id) and not LOSSES & self.run.plan.rates.keys():
            self.run.fail(BrokenPromiseError("picture_of_another_job", f"{job} {shown}"))
        if job is None or job.client.member != self.member:
            self.run.fail(BrokenPromiseError("message_of_another_member", preview.prompt_id))
        elif not job.submitted_again and any(
            type_ == "executing" and data.get("node") is None
            for _, type_, data in socket.heard
            if data.get("prompt_id") == preview.prompt_id
        ):
            self.run.fail(BrokenPromiseError("message_order", f"a preview after all: {job}"))

    async def _look_into_queue(self, job: Submission) -> None:
        """No replica has a job in the queue whose last message was heard."""
        serving = [replica for replica in self.run.replicas if replica.serves]
        await asyncio.gather(*(self._look_into_queue_at(replica, job) for replica in serving))

    async def _look_into_queue_at(self, replica: Replica, job: Submission) -> None:
        asked_at = self.world.seconds
        queue = await self._queue(self._rng, replica)
        if queue is not None and f'"{job.prompt_id}"' in queue:
            self._stays_in_queue(job, asked_at)

    def _stays_in_queue(self, job: Submission, asked_at: float) -> None:
        """Take note of a job in a queue that was asked for when its last message had been heard."""
        del asked_at
        if not job.submitted_again:
            raise BrokenPromiseError("queue_after_end", job.prompt_id)

    async def _look_into_history(self, job: Submission) -> None:
        """The history entry is readable once the end was heard, at every replica."""
        serving = [replica for replica in self.run.replicas if replica.serves]
        await asyncio.gather(*(self._look_into_history_at(replica, job) for replica in serving))

    async def _look_into_history_at(self, replica: Replica, job: Submission) -> None:
        entry = await self._ask(
            self._rng, lambda jobs: jobs.history_json(self.member, job.prompt_id), replica
        )
        if entry is not None and not json.loads(entry):
            raise BrokenPromiseError("end_before_history", job.prompt_id)
        listed = await self._ask(
            self._rng,
            lambda jobs: jobs.history.json(self.member, max_items=None, offset=None),
            replica,
        )
        if isinstance(listed, bytes) and f'"{job.prompt_id}"' not in listed.decode():
            raise BrokenPromiseError("end_before_history", f"{job.prompt_id} in the list")


def _is_of(content: bytes, job: Submission, item: str) -> bool:
    """Return whether a content is an item that a node of a job has made."""
    shown = content.removeprefix(b"\x89PNG").decode()
    whose = f"{job.client.member}/{job.prompt_id}/"
    return shown.startswith(whose) and shown.endswith(f"/{item}")


def _is_to_end(
    job: Submission,
    kind: str,
    value: Any,
    asked_at: float,
    sent: set[str],
    before: str | None,
    after: str | None,
) -> bool:
    """Return whether the answer to an action says that a job ends, by the queue before and after.
    What is taken out of it was `accepted` and not `sent` before (its head counts as running, and
    stays); what is interrupted runs before, and is alone."""
    if job.submitted_again or (after is None and kind != "cancel"):
        return False
    was_there = job.outcome == "accepted" and job.answered_at < asked_at
    match kind:
        case "cancel":
            return value is True
        case "delete" | "clear":
            is_out = after is not None and f'"{job.prompt_id}"' not in after
            return was_there and is_out and job.prompt_id not in sent
    shown = (
        _ids(before, "queue_running"),
        _ids(before, "queue_pending"),
        _ids(after, "queue_pending"),
    )
    return was_there and shown == ({job.prompt_id}, set(), set())


def _ids(queue: str | None, part: str) -> set[str]:
    """Return the ids of jobs in a part of the queue."""
    return set() if queue is None else {item[1] for item in json.loads(queue)[part]}
