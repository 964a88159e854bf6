"""Writes the pages that are drawn from the code: `python -m proxy.cli.reference [--check]`.

It is run in the project's folder. With `--check` nothing is written and the exit code is 1 when a
page is not as it would be written.
"""

from __future__ import annotations

import io
import json
import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any

import typer.main

from proxy.api.features import FLAGS
from proxy.api.routes import ROUTES, Route, Source
from proxy.cli.commands import app
from proxy.cli.common import shown_default
from proxy.settings import ACCOUNT_ENTRIES, SETTINGS, AccountSettings, Setting
from proxy.translate import release
from proxy.translate.helpers.table import PACKS as HELPER_PACKS

_REGENERATE = "Written by `make docs` from the code: change it there."


def config_example() -> str:
    """`config.example.toml`: every setting with its default, commented out."""
    blocks = [
        "# Settings of comfy-cloud-proxy, each with its default or an example. Remove the #\n"
        "# before those that you change, and name the file with --config or COMFY_PROXY_CONFIG.\n"
        "# The environment is stronger than this file, the command line stronger than both.\n"
        f"# {_REGENERATE}\n"
    ]
    for group, rows in _groups():
        blocks.append(f"# --- {group} ---\n")
        for row in rows:
            if row.key:
                value = row.default if row.entry.example is None else row.entry.example
                comment = _comment(f"{row.entry.help}{_note(row)}")
                blocks.append(f"{comment}#{row.key} = {_toml(value)}\n")
    blocks.append(_accounts_example())
    return "\n".join(blocks)


def settings_page() -> str:
    """`docs/settings.md`: every setting with its three forms."""
    parts = [
        "# Settings\n",
        f"<!-- {_REGENERATE} -->\n",
        "Every setting has three forms: an option of `comfy-cloud-proxy serve`, a variable of the "
        "environment and a key of the TOML file that `--config` or `COMFY_PROXY_CONFIG` names "
        "([`config.example.toml`](../config.example.toml) has them all). The strongest wins: "
        "command line, environment, TOML file, default. An empty variable counts as not set. A "
        "flag such as `--simulate` has a `--no-` form, which turns off what another place "
        "turned on.\n",
        "An unknown variable that begins with `COMFY_PROXY_` or `COMFY_CLOUD_`, an unknown key "
        "and a value that is not allowed end the program with exit code 2 and a "
        "sentence that says what to do.\n",
    ]
    for group, rows in _groups():
        parts.append(f"## {group}\n")
        for row in rows:
            parts += [
                f"### {row.name}\n",
                f"{row.entry.help}\n",
                f"* Option: {f'`{row.option}`' if row.option else 'none'}",
                f"* Environment: `{row.environment}`",
                f"* TOML: {f'`{row.key}`' if row.key else 'none'}",
                f"* Value: {row.entry.expects}",
                f"* Default: {_shown(row)}\n",
            ]
    return "\n".join([*parts, *_accounts_reference()])


def commands_page() -> str:
    """`docs/commands.md`: what each command says of itself."""
    parts = [
        "# Commands\n",
        f"<!-- {_REGENERATE} -->\n",
        "`python -m proxy` is the same as `comfy-cloud-proxy`. The exit code is 0 when all went "
        "well, 1 when something failed, 2 when something was asked wrongly (a setting, an option, "
        "a file), 130 when Ctrl-C cancelled a `run`. `serve` ends with 0 when a signal stops it, "
        "and a `run` of several workflows with the worst code of one. Errors go to standard error "
        "in one sentence. `comfy-cloud-proxy --install-completion` lets the shell complete "
        "commands and options.\n",
    ]
    for command in ("", *command_names()):
        name = f"comfy-cloud-proxy {command}".strip()
        parts += [f"## {name}\n", f"```text\n{help_text(command)}```\n"]
    return "\n".join(parts)


def command_names(group: Any = None) -> list[str]:
    """The commands, or those below a group, in the order of the help."""
    names = []
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            names += [f"{name} {below}" for below in command_names(command)]
        else:
            names.append(name)
    return names


_SOURCES = {
    Source.OWN: ("own record", "what the proxy has of the member on its disk"),
    Source.CACHE: ("cache", "a copy of what the cloud said, asked for again when it is old"),
    Source.CLOUD: ("cloud", "the request makes a call to Comfy Cloud, or waits for one"),
    Source.PROCESS: ("process", "the proxy's own state"),
    Source.PACKAGE: ("package", "the installed packages of the web interface"),
    Source.CONSTANT: ("constant", "the same for everybody and always"),
}


def routes_page() -> str:
    """`docs/routes.md`: every route, where its answer is from and how it differs from ComfyUI's."""
    parts = [
        "# Routes\n",
        f"<!-- {_REGENERATE} -->\n",
        "The proxy serves the routes of a local ComfyUI with the same statuses, bodies and "
        "headers. A route with a twin also answers below `/api`. Every GET route answers HEAD. "
        "OPTIONS is answered with 200 and no body. Any other path is a 404 without a body for GET "
        "and HEAD and a 405 for other methods; that includes the routes of node packs and of "
        "ComfyUI-Manager, as in a ComfyUI without them. Where ComfyUI answers bad input with a "
        "bare 500, the proxy answers 400 in ComfyUI's error form.\n",
        "Where an answer is from:\n",
        *(f"* {name}: {says}" for name, says in _SOURCES.values()),
        "",
        "The last column says what differs from a local ComfyUI, and why.\n",
        "| Method | Path | Twin | Answers with | From | Unlike ComfyUI |",
        "|---|---|---|---|---|---|",
    ]
    for route in ROUTES:
        method = "any" if route.method == "*" else route.method
        says = (route.handler.__doc__ or "").strip().splitlines()[0]
        path = shown_path(route)
        twin = f"`/api{path}`" if route.twin else ""
        source = ", ".join(_SOURCES[one][0] for one in route.source or ())
        cells = [method, f"`{path}`", twin, says, source, route.deviation or ""]
        parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts) + "\n"


def shown_path(route: Route) -> str:
    """The path of a route without the patterns of its parts."""
    return re.sub(r":[^{}]*}", "}", route.path)


def help_text(command: str, width: int = 100) -> str:
    """The help of a command, at a width of so many letters."""
    text = io.StringIO()
    with redirect_stdout(text):
        app(
            [*command.split(), "--help"],
            prog_name="comfy-cloud-proxy",
            standalone_mode=False,
            terminal_width=width,
        )
    return text.getvalue()


def helper_nodes_page() -> str:
    """`docs/helper-nodes.md`: every helper node, what is exact and what is not."""
    parts = [
        "# Helper nodes\n",
        f"<!-- {_REGENERATE} -->\n",
        "Desktop clients bring along nodes of their own, most of which only carry pictures and "
        "texts in and out. Comfy Cloud does not have them. With the setting "
        "[`helper_nodes`](settings.md#helper_nodes), which is on, the proxy carries them: it sends "
        "the pictures as files, lets core nodes take the place of these nodes on the cloud, and "
        "tells the client what the node itself would have told. Events, history, queue and errors "
        "name the nodes of the client's graph alone.\n",
        "A class that Comfy Cloud has is left to it, unless "
        "[`prefer_helper_nodes`](settings.md#prefer_helper_nodes) is set. One whose core nodes the "
        "cloud lacks is not offered.\n",
        "Pictures that clients send by `PUT /api/etn/image/{id}`, and results that they fetch from "
        "there, belong to one member. They are kept for at least ten minutes, or one minute once "
        "they were fetched, and for a day at most; together at most 512 MiB for a member. They "
        "survive a restart, and every replica has them.\n",
        "What fails in a node before the run, such as a text that is no picture, is told as the "
        "node's own error while the job runs, in its words, without a job on the cloud. Nodes that "
        "compute, such as those of the same packs for regions and tiles, need the pack on the "
        "cloud.\n",
    ]
    for pack, helpers in HELPER_PACKS.items():
        rows = ["| Class | Exact | Not exact |", "|---|---|---|"]
        rows += [f"| `{one.name}` | {one.exact} | {one.differs} |" for one in helpers]
        parts += [f"## {pack}\n", *rows, ""]
    return "\n".join(parts)


def web_interface_page() -> str:
    """`docs/web-interface.md`: which ComfyUI the proxy speaks as, and every feature flag."""
    parts = [
        "# Web interface\n",
        f"<!-- {_REGENERATE} -->\n",
        "With the extra `ui` the proxy serves ComfyUI's own web interface at `/`, the workflow "
        "templates below `/templates` and the help of the nodes below `/docs`, from the packages "
        "that ComfyUI itself installs.\n",
        "## Version\n",
        f"The proxy speaks as ComfyUI {release.COMFYUI}, the newest release whose web interface it "
        "serves: its routes, fields, headers and words of errors. `GET /system_stats` names this "
        "version, and as required the versions of the packages that are installed.\n",
        "## Feature flags\n",
        "The web interface reads feature flags from `GET /features` and from the websocket, which "
        "announce the same. These are all flags that it reads. One that is left out has the web "
        "interface's own default.\n",
        "| Flag | Announced | Why |",
        "|---|---|---|",
        *(f"| `{one.name}` | {one.shown} | {one.why} |" for one in FLAGS),
    ]
    return "\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "config.example.toml": config_example,
    "docs/settings.md": settings_page,
    "docs/commands.md": commands_page,
    "docs/routes.md": routes_page,
    "docs/helper-nodes.md": helper_nodes_page,
    "docs/web-interface.md": web_interface_page,
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
    "Several accounts share the work: each is a table `[[accounts]]` at the end of the TOML file, "
    "in place of `api_key` and `api_key_file`. A job goes to one that has a free slot, stays "
    "there, and its files are sent there as needed. Without tables there is one account, called "
    "default."
)


def _accounts_example() -> str:
    lines = [f"# --- Accounts ---\n\n{_comment(_ACCOUNTS)}\n#[[accounts]]\n"]
    for name, entry in ACCOUNT_ENTRIES:
        default = AccountSettings.model_fields[name].default
        value = default if entry.example is None else entry.example
        lines.append(f"{_comment(entry.help)}#{name} = {_toml(value)}\n")
    return "\n".join(lines)


def _accounts_reference() -> list[str]:
    parts = ["## Accounts\n", f"{_ACCOUNTS}\n"]
    for name, entry in ACCOUNT_ENTRIES:
        field = AccountSettings.model_fields[name]
        default = entry.shown or ("none" if field.default in (None, ()) else f"`{field.default}`")
        if field.is_required():
            default = "none, it must be set"
        parts += [
            f"### accounts.{name}\n",
            f"{entry.help}\n",
            f"* TOML: `{name}` in a table `[[accounts]]`",
            f"* Value: {entry.expects}",
            f"* Default: {default}\n",
        ]
    return parts


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 96))


def _groups() -> list[tuple[str, list[Setting]]]:
    by_group = groupby(SETTINGS, lambda row: row.entry.group)
    return [(group, list(rows)) for group, rows in by_group]


def _toml(value: object) -> str:
    return json.dumps(value if isinstance(value, bool | int | float | tuple) else _bare(value))


def _bare(value: object) -> str:
    return str(value).removesuffix("/")


def _note(row: Setting) -> str:
    return f" Default: {row.entry.shown}." if row.entry.shown else ""


def _shown(row: Setting) -> str:
    text = shown_default(row)
    return text if row.entry.shown or text == "none" else f"`{text}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
