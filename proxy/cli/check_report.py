"""The results of `check`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from proxy.cli.tables import say


class CheckError(Exception):
    """Raised when a check fails; the text says in one sentence what is wrong and what to do about
    it."""


@dataclass
class CheckReport:
    """The results of the checks: a line for each on standard output, unless it is `quiet`."""

    quiet: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    account: str | None = None

    @property
    def fine(self) -> bool:
        """Whether nothing failed."""
        return all(row["ok"] for row in self.rows)

    def begin(self, account: str) -> None:
        """Begin the results of this account, one of several."""
        self.account = account
        self._print(f"account {account}")

    def add(self, what: str, *, fine: str = "", warning: str = "", problem: str = "") -> bool:
        """Add the sentence about one check; returns whether it succeeded, maybe with a warning."""
        message = problem or warning or fine
        row = {"check": what, "ok": not problem, "message": message}
        self.rows.append({"account": self.account, **row} if self.account else row)
        word = "FAILED" if problem else "warning" if warning else "ok"
        self._print(f"{word:<8}{what:<14}{message}")
        return not problem

    async def passes(self, what: str, look: Awaitable[str]) -> bool:
        """Run one check; `look` gives a sentence or raises `CheckError`."""
        try:
            return self.add(what, fine=await look)
        except CheckError as problem:
            return self.add(what, problem=str(problem))

    def _print(self, line: str) -> None:
        if not self.quiet:
            say(line)
