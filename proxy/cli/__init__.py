"""The command line: its default command, and how it reports errors.

The commands are imported where one of them is called. A server does without them, typer and
pydantic, which take a seventh of its memory and of its start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from proxy.cli.common import PROGRAM, CommandError
from proxy.settings import SERVE_SETTINGS, ConfigError, load

_OF_THE_PROGRAM = ("-h", "--help", "--version", "--install-completion", "--show-completion")

#: The variable by which a shell asks for completions.
_COMPLETE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for a failure, 2 for wrong arguments."""
    arguments = with_default_command(sys.argv[1:] if arguments is None else arguments)
    options = None if _COMPLETE in os.environ else plain_options(arguments)
    try:
        if options is None:
            from proxy.cli.commands import run

            code = run(arguments)
        else:
            from proxy.cli.serve import serve

            code = serve(load(options))
    except ConfigError as error:
        code = _complain(str(error), 2)
    except CommandError as error:
        code = _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `serve` before them if they name no command."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _OF_THE_PROGRAM):
        return ["serve", *arguments]
    return list(arguments)


def plain_options(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The options of `serve` by the name of their setting.

    `None` for what only the parser of the commands reads and explains: other commands, help, and
    options that do not exist or lack their value.
    """
    if arguments[0] != "serve":
        return None
    known: dict[str, tuple[str, bool | None]] = {}  # the value of a flag, None where one follows
    for row in SERVE_SETTINGS:
        on, slash, off = row.declaration.partition("/")
        known[on] = row.name, True if row.is_flag else None
        if slash:
            known[off] = row.name, False
    found: dict[str, Any] = {}
    rest = iter(arguments[1:])
    for argument in rest:
        option, equals, value = argument.partition("=")
        name, flag = known.get(option, ("", None))
        if not name or (equals and flag is not None):
            return None
        found[name] = flag if flag is not None else value if equals else next(rest, None)
    return None if None in found.values() else found


def _complain(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201
    return code
