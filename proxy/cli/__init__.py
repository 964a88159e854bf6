"""The command line: its default command, and how it reports errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from proxy import logging as logs
from proxy.cli import commands
from proxy.cli.common import CommandError
from proxy.settings import ConfigError

_PROGRAM_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for a failure, 2 for wrong arguments."""
    _replace_closed_streams()
    logs.configure(log_level="warning")  # structlog's own tracebacks would show local variables
    try:
        code = commands.run(with_default_command(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except ConfigError as error:
        code = _complain(str(error), 2)
    except CommandError as error:
        code = _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        # What is left in the buffer is not written again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # a reader that has closed its pipe, such as head, wants no message
        if error.errno == errno.ENOSPC:
            code = _complain("The disk is full: free space, and run the command again.", code)
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Open the standard streams that the caller has closed, so that commands can use them.

    No other file gets one of their numbers then, and text for people is not written to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (until the end)


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with `serve` before them if they name no command."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _PROGRAM_OPTIONS):
        return ["serve", *arguments]
    return list(arguments)


def _complain(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201
    return code
