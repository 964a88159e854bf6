"""What webhooks must get of a run beside what they got."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from chaos.accounting import Sums


class Message(NamedTuple):
    """A message of one `type` about one `subject` (a job or a budget) to the endpoint `path`."""

    path: str
    type: str
    subject: str


@dataclass
class Attempt:
    """A request that a receiver has read. It was `accepted` if the answer was a 2xx, and `verified`
    if the signature is right."""

    message: Message
    id: str
    body: bytes
    verified: bool = True
    accepted: bool = False


@dataclass(frozen=True)
class MessageSums(Sums):
    """The counts of messages. `messages` were due, `attempts` came for them, of which
    `failed_attempts` were not accepted.

    Messages are `missing` that were never accepted, `sent_under_two_ids` if repeats could not be
    recognised, `uncalled_for` if nothing of the kind has happened. Ids are `changed` that came with
    different bodies, attempts `forged` whose signature is wrong. `undelivered` ones have not ended
    as delivered in the storage.
    """

    FAULTS = (
        "missing",
        "sent_under_two_ids",
        "uncalled_for",
        "changed",
        "forged",
        "undelivered",
    )

    messages: int
    attempts: int
    failed_attempts: int
    missing: int
    sent_under_two_ids: int
    uncalled_for: int
    changed: int
    forged: int
    undelivered: int


def account_messages(
    due: Collection[Message],
    attempts: Iterable[Attempt],
    *,
    allowed: Collection[Message] = (),
    undelivered: int = 0,
) -> MessageSums:
    """Compare. Messages that are `allowed` may come or not, but under one id, too."""
    made = list(attempts)
    ids, bodies = defaultdict[Message, set[str]](set), defaultdict[str, set[bytes]](set)
    for attempt in made:
        ids[attempt.message].add(attempt.id)
        bodies[attempt.id].add(attempt.body)
    accepted = {attempt.message for attempt in made if attempt.accepted}
    known = {*due, *allowed}
    return MessageSums(
        messages=len(set(due)),
        attempts=len(made),
        failed_attempts=sum(not attempt.accepted for attempt in made),
        missing=len(set(due) - accepted),
        sent_under_two_ids=sum(len(found) > 1 for found in ids.values()),
        uncalled_for=len(ids.keys() - known),
        changed=sum(len(found) > 1 for found in bodies.values()),
        forged=sum(not attempt.verified for attempt in made),
        undelivered=undelivered,
    )
