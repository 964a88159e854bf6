"""Writes the pages that are drawn from the code: `python docs/reference.py [--check]`.

It is run in the project's folder. With `--check` nothing is written and the exit code is 1 when a
page is not as it would be written.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import openapi
import typer.main

from proxy.cli.commands import app
from proxy.cli.common import shown_default
from proxy.metrics import METRICS
from proxy.settings import ACCOUNT_SETTINGS, PROVIDER_SETTINGS, SETTINGS, Setting

_REQUIRED, _FLAG = "it must be set", "true or false"
_REGENERATE = "Written by `make docs` from the code: change it there."


def config_example() -> str:
    """`config.example.toml`: every setting with its default, commented out."""
    blocks = [
        "# Settings of comfy-cloud-proxy, each with its default or an example. Remove the #\n"
        "# before the settings that you change. Name the file with --config or "
        "COMFY_PROXY_CONFIG.\n"
        "# Environment variables override this file, and options override both.\n"
        f"# {_REGENERATE}\n"
    ]
    for group, rows in _groups():
        blocks.append(f"# --- {group} ---\n")
        for row in rows:
            if row.key:
                value = row.default if row.example is None else row.example
                comment = _comment(f"{row.help}{_note(row)}")
                blocks.append(f"{comment}#{row.key} = {_toml(value)}\n")
    blocks += _arrays_example()
    return "\n".join(blocks)


def settings_page() -> str:
    """`docs/settings.md`: every setting with its three forms."""
    parts = [
        "# Settings\n",
        f"<!-- {_REGENERATE} -->\n",
        "Each setting is an option of `comfy-cloud-proxy serve` (`--help-all` lists them), an "
        "environment variable, and a key of the TOML file that `--config` or `COMFY_PROXY_CONFIG` "
        "names, with the name of the heading ([`config.example.toml`](../config.example.toml) has "
        "all keys). Options override variables, and variables override the file. An empty variable "
        "counts as not set. A flag such as `--simulate` is true or false and has a `--no-` form.\n",
        "A value that is not allowed, an unknown key, or an unknown variable with `COMFY_PROXY_` "
        "or `COMFY_CLOUD_` ends the start with code 2. A setting that was removed is ignored, and "
        "a warning says what is in its place.\n",
    ]
    for group, rows in _groups():
        parts.append(f"## {group}\n")
        for row in rows:
            forms = [f"`{form}`" for form in (row.option, row.environment) if form]
            parts += [
                f"### {row.name}\n",
                f"{row.help}\n",
                f"{' · '.join(forms)}{_values(row)}{_default(_shown(row))}\n",
            ]
    return "\n".join([*parts, *_arrays_reference()])


def commands_page() -> str:
    """`docs/commands.md`: what each command is for, with an example of it."""
    parts = [
        "# Commands\n",
        f"<!-- {_REGENERATE} -->\n",
        "`comfy-cloud-proxy COMMAND --help` says more of a command, and prints its options.\n",
        "The exit code is 0 after success, 1 after a failure, 2 for a wrong setting, option or "
        "file, and 130 when Ctrl-C or SIGTERM cancels a `run`. `serve` exits with 0 when a signal "
        "stops it. A `run` of several workflows exits with the highest code. Errors go to standard "
        "error. `python -m proxy` is the same as `comfy-cloud-proxy`, and `comfy-cloud-proxy "
        "--install-completion` installs completion for your shell.\n",
    ]
    for name, command in leaves(typer.main.get_command(app)):
        _, example = command.epilog.split("\n")[1:3]
        text = " ".join(command.help.partition("\n\n")[0].split())
        parts += [f"## {name}\n", f"{text}\n", f"```sh\n{example.strip()}\n```\n"]
    return "\n".join(parts)


def leaves(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the commands below a group by their names, in the order of the help."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{word} ")
        else:
            yield f"{name}{word}", command


def metrics_page() -> str:
    """`docs/metrics.md`: the page as it is, with the table of all metrics."""
    text = (Path(__file__).parent / "metrics.md").read_text(encoding="utf-8")
    before, head, rest = text.partition("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
    after = rest[rest.index("\n\n") :]
    rows = (
        f"| `{metric.shown}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in METRICS
    )
    return f"{before}{head}" + "\n".join(rows) + after


PAGES: dict[str, Callable[[], str]] = {
    "config.example.toml": config_example,
    "docs/settings.md": settings_page,
    "docs/commands.md": commands_page,
    "docs/metrics.md": metrics_page,
    "docs/openapi.json": openapi.page,
}


def stale(root: Path) -> list[str]:
    """The pages beneath `root` that are not as the code would write them."""
    return [
        name
        for name, page in PAGES.items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != page()
    ]


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that are stale."""
    root = Path()
    for name in stale(root):
        if "--check" in arguments:
            sys.stderr.write(f"{name} is not as the code says: run make docs.\n")
        else:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(PAGES[name](), encoding="utf-8")
    return 1 if "--check" in arguments and stale(root) else 0


_ACCOUNTS = (
    "To use several accounts, add a table `[[accounts]]` for each at the end of the TOML file, "
    "instead of `api_key` and `api_key_file`. A job goes to an account with a free slot and stays "
    "there. The proxy sends the files that it needs to that account. Without tables there is one "
    "account, called default."
)


_PROVIDERS = (
    "Providers of OpenID Connect at which members sign in, each in a table [[providers]] of the "
    "settings file. They need the extra `sign-in`."
)

#: The arrays of tables: their headings, keys, texts and settings.
_ARRAYS = (
    ("Accounts", "accounts", _ACCOUNTS, ACCOUNT_SETTINGS),
    ("Providers", "providers", _PROVIDERS, PROVIDER_SETTINGS),
)


def _arrays_example() -> Iterator[str]:
    for heading, key, text, rows in _ARRAYS:
        lines = [f"# --- {heading} ---\n\n{_comment(text)}\n#[[{key}]]\n"]
        for row in rows:
            value = row.default if row.example is None else row.example
            lines.append(f"{_comment(row.help)}#{row.name} = {_toml(value)}\n")
        yield "\n".join(lines)


def _arrays_reference() -> Iterator[str]:
    for heading, key, text, rows in _ARRAYS:
        yield f"## {heading}\n"
        yield f"{text}\n"
        for row in rows:
            default = row.shown or (
                "none" if row.default in (None, (), "") else _shown_default(row)
            )
            if row.is_required:
                default = _REQUIRED
            yield f"### {key}.{row.name}\n"
            yield f"{row.help}\n"
            yield f"{_capital(row.expects)}{_default(default)}\n"


def _values(row: Setting) -> str:
    """Return what follows the forms of a setting: its values, unless it is a flag."""
    return "" if row.expects == _FLAG else f": {row.expects}"


def _default(shown: str) -> str:
    """Return what follows the values of a setting: its default, if it has one."""
    return {"none": "", _REQUIRED: f"; {_REQUIRED}"}.get(shown, f"; default: {shown}")


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _shown_default(row: Setting) -> str:
    """A default as the page shows it."""
    value = row.default
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 96, break_on_hyphens=False))


def _groups() -> list[tuple[str, list[Setting]]]:
    by_group = groupby(SETTINGS, lambda row: row.group)
    return [(group, list(rows)) for group, rows in by_group]


def _toml(value: object) -> str:
    return json.dumps(value if isinstance(value, bool | int | float | tuple) else _bare(value))


def _bare(value: object) -> str:
    return str(value).removesuffix("/")


def _note(row: Setting) -> str:
    return f" Default: {row.shown}." if row.shown else ""


def _shown(row: Setting) -> str:
    text = shown_default(row)
    return text if row.shown or text == "none" else f"`{text}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
