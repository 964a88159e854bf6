"""Krita AI Diffusion's check of a server: what it requires, and what to say where that is lacking.

It refuses a server by itself and names what is missing, but not the setting that turns its check
off. A client that tries again after that is told so, once, in the dialog that shows its refusal.
"""

from __future__ import annotations

from collections.abc import Container

from proxy.translate.helpers.table import KRITA_REQUIRES

_ADVICE = (
    'To connect anyway, set "check_server_resources": false in settings.json (beside the '
    "folder of the log files, which the settings open), restart Krita and connect again; features "
    "that need them will not work."
)


class KritaCheck:
    """Which members' Krita has been refused by its own check, in this process."""

    def __init__(self) -> None:
        self._connecting: set[str] = set()
        self._refused: set[str] = set()

    def begins(self, member: str) -> None:
        """A client of the member begins to connect."""
        (self._refused if member in self._connecting else self._connecting).add(member)

    def connected(self, member: str) -> None:
        """It has connected: its check has passed or is off."""
        self._connecting.discard(member)
        self._refused.discard(member)

    def objection(self, member: str, classes: Container[str]) -> str | None:
        """What to say instead of the node classes, `None` for nothing."""
        if member not in self._refused:
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
