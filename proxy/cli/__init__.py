"""The command line: its default command, and how it reports errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from proxy import logging as logs
from proxy.cli import commands
from proxy.cli.common import CommandError
from proxy.settings import ConfigError

_PROGRAM_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for a failure, 2 for wrong arguments."""
    logs.configure(log_level="warning")  # structlog's own tracebacks would show local variables
    try:
        code = commands.run(with_default_command(sys.argv[1:] if arguments is None else arguments))
    except ConfigError as error:
        code = _complain(str(error), 2)
    except CommandError as error:
        code = _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with `serve` before them if they name no command."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _PROGRAM_OPTIONS):
        return ["serve", *arguments]
    return list(arguments)


def _complain(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201
    return code
