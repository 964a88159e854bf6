"""What is remembered of a member's clients: what they hand to each other, and Krita's check.

Workflows and short notes are kept in memory and brought to every replica by the bus.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Container
from typing import Any

from proxy.bus import BusMessage, EventBus
from proxy.translate import codec
from proxy.translate.events import Event
from proxy.translate.helper_tooling import KRITA_REQUIRES

#: Workflows and subscribers of a member that are kept, the newest ones.
_MOST = 100
#: Seconds for which a note is kept, and notes of a member that are.
_NOTE_SECONDS, _MOST_NOTES = 30.0, 1000

#: Gives a client of a member an event, if it has a socket here.
Tell = Callable[[str, str, Event], None]


class WorkflowPublished(BusMessage, frozen=True):
    """A client of the member has published a workflow; it replaces the client's last one.

    `event` is what the others get, as JSON, which numbers of any size fit into.
    """

    member: str
    publisher: str
    event: str


class WorkflowSubscribed(BusMessage, frozen=True):
    """A client of the member wants to hear of workflows, or no longer."""

    member: str
    client_id: str
    wants: bool


class NoteLeft(BusMessage, frozen=True):
    """A note for the member's web pages; `at` is in seconds since 1970, `argument` JSON."""

    member: str
    at: float
    command: str
    argument: str


class Exchange:
    """The workflows and notes of all members. `tell` reaches the sockets of this replica."""

    def __init__(self, bus: EventBus, tell: Tell) -> None:
        self._bus = bus
        self._tell = tell
        self._published: defaultdict[str, dict[str, WorkflowPublished]] = defaultdict(dict)
        self._subscribers: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._notes: defaultdict[str, deque[NoteLeft]] = defaultdict(
            lambda: deque(maxlen=_MOST_NOTES)
        )
        bus.subscribe("exchange.*", self._hear)

    def publish(self, member: str, publisher: str, name: Any, workflow: Any) -> None:
        """Show a workflow to the member's clients that have subscribed."""
        about = {"publisher": {"name": name, "id": publisher}, "workflow": workflow}
        self._say(member, WorkflowPublished(member, publisher, codec.dumps(about)))

    def subscribe(self, member: str, client_id: str) -> bool:
        """Let a client hear of workflows, and of those that are there; false if it does already."""
        if client_id in self._subscribers[member]:
            return False
        self._say(member, WorkflowSubscribed(member, client_id, wants=True))
        for published in self._published[member].values():
            self._tell(member, client_id, _event(published))
        return True

    def unsubscribe(self, member: str, client_id: str) -> bool:
        """Let a client hear no more; false if it did not."""
        if client_id not in self._subscribers[member]:
            return False
        self._say(member, WorkflowSubscribed(member, client_id, wants=False))
        return True

    def leave(self, member: str, command: str, argument: Any = None) -> None:
        """Leave a note."""
        self._say(member, NoteLeft(member, time.time(), command, codec.dumps(argument)))

    def notes(self, member: str, since: float) -> list[NoteLeft]:
        """The notes that were left after a time (seconds since 1970) and are not old."""
        oldest = max(since, time.time() - _NOTE_SECONDS)
        return [note for note in self._notes[member] if note.at > oldest]

    def _say(self, member: str, message: BusMessage) -> None:
        self._bus.publish(f"exchange.{member}", message)

    def _hear(self, message: object) -> None:
        match message:
            case WorkflowPublished(member=member, publisher=publisher):
                if subscribers := self._subscribers[member]:
                    event = _event(message)
                    for client_id in subscribers:
                        self._tell(member, client_id, event)
                _keep(self._published[member], publisher, message)
            case WorkflowSubscribed(member=member, client_id=client_id, wants=True):
                _keep(self._subscribers[member], client_id, None)
            case WorkflowSubscribed(member=member, client_id=client_id):
                self._subscribers[member].pop(client_id, None)
            case NoteLeft(member=member):
                self._notes[member].append(message)


def _keep(among: dict[str, Any], key: str, value: Any) -> None:
    among[key] = value
    if len(among) > _MOST:
        del among[next(iter(among))]


def _event(published: WorkflowPublished) -> Event:
    return Event("etn_workflow_published", codec.loads(published.event))


_ADVICE = (
    'To connect anyway, set "check_server_resources": false in settings.json (beside the '
    "folder of the log files, which the settings open), restart Krita and connect again; features "
    "that need them will not work."
)


class KritaCheck:
    """Which members' Krita has been refused by its own check, in this process.

    It refuses a server by itself and names what is missing, but not the setting that turns its
    check off. A client that tries again after that is told so, once, in the dialog that shows its
    refusal.
    """

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begins(self, member: str) -> None:
        """A client of the member begins to connect."""
        self._begun[member] += 1

    def connected(self, member: str) -> None:
        """It has connected: its check has passed or is off."""
        self._begun.pop(member, None)

    def objection(self, member: str, classes: Container[str]) -> str | None:
        """What to say instead of the node classes, `None` for nothing."""
        if self._begun[member] < 2:
            return None
        self.connected(member)
        lacking = [
            f"{pack}: {', '.join(missing)}"
            for pack, names in KRITA_REQUIRES.items()
            if (missing := [name for name in names if name not in classes])
        ]
        if lacking:
            return f"Comfy Cloud lacks nodes that Krita requires: {'; '.join(lacking)}. {_ADVICE}"
        return f"Comfy Cloud lacks models that Krita requires; the list below names them. {_ADVICE}"
