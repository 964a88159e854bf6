"""The order of a job's messages, whatever the bus loses, repeats or exchanges.

A *step* is a message that a client gets once and in order: the start, the cached nodes, each node
that runs, its result, the end. What comes between, such as progress, may be lost. The engine
numbers the steps of a job 1, 2, 3 …; any other message has the number of the step before it. With
the epoch of the engine's lease in front this is an order that all replicas share: an engine that
takes a job over tells its steps once more, under a higher epoch and with numbers of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from proxy.budget import Allocation, MemoryLimitError
from proxy.jobs.messages import JobMessage
from proxy.storage.job_tables import JobKey
from proxy.translate.events import (
    TERMINAL_EVENTS,
    Binary,
    Event,
    Message,
    Preview,
    is_blocked_branch,
    size_of,
)

#: The step that says how a job ended, and the last one, `executing` with `node: null`.
END, OVER = "end", "over"


def step_of(message: Message) -> str | None:
    """Return what a step is called in all tellings of a job, `""` for pictures of a result; `None`
    for a message that may be lost."""
    if not isinstance(message, Event):
        is_result = isinstance(message, Binary) or (isinstance(message, Preview) and message.result)
        return "" if is_result else None
    match message.type:
        case "execution_start" | "execution_cached" as type_:
            return type_
        case "executing":
            node = message.data["node"]
            return OVER if node is None else f"executing {node}"
        case "executed":
            return f"executed {message.data['node']}"
        case type_ if type_ in TERMINAL_EVENTS:
            blocked = is_blocked_branch(type_, message.data)
            return f"blocked {message.data['node_id']}" if blocked else END
    return None


#: Bytes of a step that is kept whatever the budget says: there are as many as the graph has nodes.
_SMALL = 1024

#: The steps that one who joins a job later does not get.
_BEGINNING = frozenset({"execution_start", "execution_cached"})


class Delivery(Struct):
    """What a replica has sent of a job that has not ended, to the sockets that it has.

    `number` is that of the last step of `epoch` that has come; `None` where the sockets have opened
    while the job ran, and need nothing of what was before. `lacking` says that steps before the
    last message are missing: it comes again when they do.
    """

    key: JobKey
    client_id: str | None
    epoch: int = 0
    number: int | None = 0
    lacking: bool = False
    #: Whether each step of this epoch came with its message.
    whole: bool = True
    #: The names of the steps that were sent: of this epoch, and of those before.
    sent: set[str] = set()
    sent_before: set[str] = set()

    def receive(self, news: JobMessage) -> bool:
        """Take a message as it comes, and return whether to deliver it.

        It is not delivered if the client has had it, if a newer engine tells the job, or while the
        job is `lacking` steps.
        """
        self.lacking = False
        epoch, number, step = news.epoch, news.number, news.step
        if epoch < self.epoch:
            return False
        is_step = step is not None
        if self.number is None:
            self.epoch, self.number = epoch, number - is_step
            if self.number:
                self.sent_before |= _BEGINNING
        elif epoch > self.epoch:
            self.epoch, self.number, self.whole = epoch, 0, True
            self.sent_before |= self.sent
            self.sent = set()
        due = self.number + is_step
        if number < due:
            return False
        if number > due or (step in (END, OVER) and not self.whole):
            self.lacking = True
            return False
        self.number = number
        if is_step and news.message is None:  # the engine could not keep it
            self.whole = False
            return False
        if not step:
            return True
        self.sent.add(step)
        return _is_new(step, self.sent_before)

    def rest_of(self, life: Iterable[Message]) -> Iterator[Message]:
        """Yield what was not sent of the whole life of a job, which ends with this."""
        sent, new = self.sent | self.sent_before, False
        ended = END in sent
        for message in life:
            name = step_of(message)
            if name:
                new = name == OVER if ended else _is_new(name, sent)
            if new:
                yield message


def _is_new(name: str, sent: set[str]) -> bool:
    """Return whether a step was not sent; a node that has had its output does not run any more."""
    return name not in sent and name.replace("executing ", "executed ", 1) not in sent


@dataclass(eq=False, repr=False)
class StepBuffer:
    """Numbers the messages of a job in an `epoch`, and keeps its steps until it ends.

    The bytes are `held`. A large step for which there is no memory is counted, but kept without
    its message.
    """

    epoch: int
    held: Allocation
    _number: int = field(init=False, default=0)
    _steps: list[JobMessage] = field(init=False, default_factory=list)

    def position(self, message: Message) -> tuple[int, int, str | None]:
        """Return the epoch, the number and the step's name of the next message."""
        step = step_of(message)
        if step is not None:
            self._number += 1
        return self.epoch, self._number, step

    def keep(self, news: JobMessage) -> None:
        """Keep a message that has its position, if it is a step."""
        if news.step is not None:
            fits = _fits(news.message, self.held)
            self._steps.append(news if fits else replace(news, message=None))

    def after(self, epoch: int, number: int) -> list[JobMessage]:
        """Return the steps after this one; all of them if it is of another epoch."""
        return self._steps[number if epoch == self.epoch else 0 :]

    def close(self) -> None:
        """Forget the steps."""
        self._steps.clear()
        self.held.release()


def _fits(message: Message, held: Allocation) -> bool:
    """Return whether there is memory for a step, which is then `held`; there is for a small one."""
    size = size_of(message)
    try:
        held.grow(size)
    except MemoryLimitError:
        return size <= _SMALL
    return True


class KnownEnds(Struct):
    """The ends of a member's jobs that are known, which the storage numbers 1, 2, 3 ….

    All up to `last` are; `ahead` are those after one that is not.
    """

    last: int
    ahead: set[int] = set()

    def add(self, ordinal: int) -> None:
        """Note an end."""
        if ordinal <= self.last or len(self.ahead) >= _MAX_AHEAD:
            return
        self.ahead.add(ordinal)
        while self.last + 1 in self.ahead:
            self.last += 1
            self.ahead.remove(self.last)

    def read(self, last: int) -> None:
        """Note that all ends up to this one were read."""
        self.last = max(self.last, last)
        self.ahead = {ordinal for ordinal in self.ahead if ordinal > self.last}


#: Ends of a member that are remembered after one that is not known; later ones are read.
_MAX_AHEAD = 1000
