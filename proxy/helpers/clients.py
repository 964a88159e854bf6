"""Which members' Krita has been refused by its own check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from proxy.translate.helper_tooling import KRITA_REQUIRES

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
