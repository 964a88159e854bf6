"""The options of a command, drawn from the table of the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import Annotated, Any

import typer

from proxy.settings import SETTINGS, Setting


def takes_settings(
    names: Collection[str] | None = None,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command an option for each setting, or for those in `names`, behind its own.

    The command gets a dictionary of those that were given, for `config.load`, as the first
    argument and its own by name.
    """
    rows = [
        (row, row.option) for row in SETTINGS if row.option and (names is None or row.name in names)
    ]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def with_options(**options: Any) -> int:
            others = {parameter.name: options.pop(parameter.name) for parameter in own}
            given = {name: value for name, value in options.items() if value is not None}
            return command(given, **others)

        keyword = inspect.Parameter.KEYWORD_ONLY
        with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                *(parameter.replace(kind=keyword) for parameter in own),
                *(_parameter(row, option) for row, option in rows),
            ],
            return_annotation=int,
        )
        with_options.__annotations__ = {}
        return with_options

    return decorate


def _parameter(row: Setting, name: str) -> inspect.Parameter:
    declaration = f"{name}/--no-{name[2:]}" if row.is_flag else name
    notes = f"[default: {shown_default(row)}] [env: {row.environment}]"
    option = typer.Option(
        declaration,
        metavar=None if row.is_flag else row.entry.metavar,
        help=f"{row.entry.help} {notes}",
        show_default=False,
    )
    kind: Any = Annotated[bool | None if row.is_flag else str | None, option]
    return inspect.Parameter(
        row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


def shown_default(row: Setting) -> str:
    """The default as people read it."""
    if row.entry.shown:
        return row.entry.shown
    if row.default is None or row.default == ():
        return "none"
    if isinstance(row.default, bool):
        return "true" if row.default else "false"
    return str(row.default).removesuffix("/")
