"""The order of a job's messages, whatever the bus loses, repeats or exchanges.

A *step* is a message that a client gets once and in order: the start, the cached nodes, each node
that runs, its result, the end. What comes between, such as progress, may be lost. The engine
numbers the steps of a job 1, 2, 3 …; any other message has the number of the step before it. With
the epoch of the engine's lease in front this is an order that all replicas share: an engine that
takes a job over tells its steps once more, under a higher epoch and with numbers of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import NamedTuple

from msgspec import Struct

from proxy.budget import Allocation, MemoryLimitError
from proxy.storage.jobs import JobKey
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


class Verdict(Enum):
    """What to do with a message that has come."""

    DELIVER = auto()
    #: The client has had it, or a newer engine tells the job.
    DROP = auto()
    #: Steps before it have not come: it comes again when they do.
    MISSING = auto()


class Delivery(Struct):
    """What a replica has sent of a job that has not ended, to the sockets that it has.

    `number` is that of the last step of `epoch` that has come; `None` where the sockets have opened
    while the job ran, and need nothing of what was before. `lacking` says that steps are missing.
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

    def receive(
        self, epoch: int, number: int, message: Message | None, *, step: str | None
    ) -> Verdict:
        """Take a message as it comes, and return what to do with it.

        Of a step that the engine could not keep, the repetition has no message.
        """
        self.lacking = False
        if epoch < self.epoch:
            return Verdict.DROP
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
            return Verdict.DROP
        if number > due or (step in (END, OVER) and not self.whole):
            self.lacking = True
            return Verdict.MISSING
        self.number = number
        if is_step and message is None:
            self.whole = False
            return Verdict.DROP
        if not step:
            return Verdict.DELIVER
        new = _is_new(step, self.sent_before)
        self.sent.add(step)
        return Verdict.DELIVER if new else Verdict.DROP

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


class Step(NamedTuple):
    """A step that the engine has sent; the message is `None` if it could not be kept."""

    number: int
    name: str
    message: Message | None


class StepBuffer(Struct, eq=False):
    """Numbers the messages of a job, and keeps its steps until it ends.

    The bytes are `held`; without an allocation nothing is kept, since nothing gets lost. A large
    step for which there is no memory is counted, but not kept.
    """

    _held: Allocation | None
    _number: int = 0
    _steps: list[Step] = []

    def number(self, message: Message) -> tuple[int, str | None]:
        """Return the number of the next message, and which step it is (see `step_of`)."""
        name = step_of(message)
        if name is not None:
            self._number += 1
            if self._held is not None:
                kept = message if self._fits(message) else None
                self._steps.append(Step(self._number, name, kept))
        return self._number, name

    def after(self, number: int) -> list[Step]:
        """Return the steps after this one."""
        return self._steps[number:]

    def close(self) -> None:
        """Forget the steps."""
        self._steps.clear()
        if self._held is not None:
            self._held.release()
            self._held = None

    def _fits(self, message: Message) -> bool:
        size = size_of(message)
        try:
            if self._held is not None:
                self._held.grow(size)
        except MemoryLimitError:
            return size <= _SMALL
        return True


class KnownEnds(Struct):
    """The ends of a member's jobs that are known, which the storage numbers 1, 2, 3 ….

    All up to `last` are; `ahead` are those after one that is not.
    """

    last: int
    ahead: set[int] = set()

    def note(self, ordinal: int) -> None:
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
