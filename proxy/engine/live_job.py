"""A live job as the engine has it: one record with all that belongs to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypedDict

from proxy.engine.follower import JobFollower
from proxy.jobs.engine_calls import Submitted
from proxy.jobs.models import Job, Wish
from proxy.sharing.budget import Allocation
from proxy.storage.webhooks import WebhookMessage
from proxy.translate.events import Preview

if TYPE_CHECKING:
    from proxy.catalog.owners import Needs


class SlotState(Enum):
    """What a job has of the slots of the accounts; the scheduler sets it."""

    NONE = "none"
    #: It is in the queue.
    WAITING = "waiting"
    #: It has one, which the storage does not know yet: after a restart it would wait.
    GIVEN = "given"
    STORED = "stored"


class RowState(Enum):
    """What is known of a job's row in the storage; the recorder sets it."""

    KEPT = "kept"
    #: A write has not found it: the job was taken out of the storage.
    GONE = "gone"
    #: It is still to be deleted.
    UNWANTED = "unwanted"
    #: The storage does not take what the job has become.
    REFUSED = "refused"


@dataclass(slots=True, eq=False)
class LiveJob(Job):
    """A job that has not ended, in the engine that runs it.

    `answered` says that the client has its `prompt_id`, before which no message about it may flow.
    It is independent of `state`. `answer` is what a submission under way comes to, `omitted` are
    the errors of nodes that the cloud has left out, `needs` is what not every account has.
    `released` is set, where somebody waits for it, when the client has the answer.

    The `slot` is its place with the scheduler; `row` and `start`, a message of webhooks about the
    start of the job, are what is still to be written. A large content has `memory` of the member.
    While the job is followed, the `follower` takes what happens to it, its messages have the
    `metadata`, and `preview` is the last picture.
    """

    answered: bool = True
    answer: asyncio.Future[Submitted] | None = field(default=None, repr=False)
    omitted: Mapping[str, Any] = field(default_factory=dict, repr=False)
    needs: Needs | None = field(default=None, repr=False)
    slot: SlotState = SlotState.NONE
    row: RowState = RowState.KEPT
    start: WebhookMessage | None = field(default=None, repr=False)
    memory: Allocation | None = field(default=None, repr=False)
    released: asyncio.Event | None = field(default=None, repr=False)
    follower: JobFollower | None = field(default=None, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    preview: Preview | None = field(default=None, repr=False)

    def release_memory(self) -> None:
        """Count the content no longer; does nothing if repeated."""
        if self.memory is not None:
            self.memory.release()
            self.memory = None

    def awaited_answer(self) -> asyncio.Future[Submitted]:
        """Return what gets the answer to the submission."""
        self.answer = asyncio.get_running_loop().create_future()
        return self.answer

    def awaited_release(self) -> asyncio.Event:
        """Return what is set when the client has the answer."""
        if self.released is None:
            self.released = asyncio.Event()
        return self.released


class JobChanges(TypedDict, total=False):
    """New values of fields of a live job."""

    account: str
    estimate: int
    cloud_id: str
    started_at: int
    outputs_to_execute: tuple[str, ...]
    accepted: bool
    answered: bool
    watched: bool
    wish: Wish
    omitted: Mapping[str, Any]
    reason: str | None
    message: str | None
    finishing: bool
    needs: Needs | None
