"""How a command says that it cannot go on."""

from __future__ import annotations


class CommandError(Exception):
    """Ends the command with one sentence on standard error.

    `exit_code` is 2 for what was asked wrongly and 1 for what went wrong.
    """

    def __init__(self, sentence: str, *, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
