"""The commands of the program."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy import __version__
from proxy.cli import data_folder
from proxy.cli.common import (
    PROGRAM,
    WHERE,
    CommandError,
    ServeCommand,
    UsageError,
    argument,
    command,
    examples,
    option,
    show_all_options,
)
from proxy.cli.jobs import jobs
from proxy.cli.members import member
from proxy.cli.service import service
from proxy.cli.tokens import token
from proxy.settings import SERVE_SETTINGS, SETTINGS, load, load_with_sources

_CLOUD = [*WHERE, *(row for row in SETTINGS if row.name in ("api_key_file", "base_url"))]

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. Raises `CommandError` for wrong arguments."""
    try:
        return int(app(arguments, prog_name=PROGRAM, standalone_mode=False) or 0)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        called = context.command_path if context is not None else PROGRAM
        message = error.format_message()
        if context is not None and message == context.get_help():  # a group without a command
            raise UsageError(message) from None
        message = message.replace("Value error, ", "").rstrip(".")
        sentence = f"{message}: {_placed(arguments) or f'see {called} --help'}."
        raise (UsageError if error.exit_code == 2 else CommandError)(sentence) from None
    except typer.Abort:
        raise CommandError("Aborted.") from None


def _placed(arguments: Sequence[str]) -> str:
    """Return where the options belong, if they stand before a command instead of after it."""
    names = {command.name for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    first = next((n for n, word in enumerate(arguments) if n and word in names), 0)
    if arguments[:1] != ["serve"] or not first:
        return ""
    words = [PROGRAM, *arguments[first:], *arguments[1:first]]
    return f"options come after the command, as in {shlex.join(words)}"


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog=examples("--simulate", "run workflow.json", "check", "serve --help"))
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version)
    ] = False,
) -> None:
    """A local ComfyUI API whose workflows run on Comfy Cloud.

    Without a command, `serve` runs. The exit code is 0 after success, 1 after a failure, 2 for a
    wrong option, setting or file, and 130 when Ctrl-C or SIGTERM cancels a run.
    """


@command(
    app,
    "serve",
    "",
    "--simulate",
    "--port 8200 --api-key-file key.txt",
    "serve --config config.toml --log-format json",
    short="Serve the local ComfyUI API (the default).",
    cls=ServeCommand,
    settings=SERVE_SETTINGS,
)
def _serve(
    options: dict[str, Any],
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all",
            is_eager=True,
            callback=show_all_options,
            help="Show the options of all settings and exit.",
        ),
    ] = False,
) -> int:
    """Serve the API of a local ComfyUI and run every workflow on Comfy Cloud.

    Each option is also an environment variable and a key of the settings file.
    """
    del help_all
    from proxy.cli.serve import serve

    return serve(load(options))


_Assignments = Annotated[
    list[str] | None,
    option(
        "NODE.INPUT=VALUE",
        "Set an input. NODE is the id, title or class of a node. You can omit it if only "
        "one node has this input. VALUE is JSON or text; random sets a random seed, @FILE "
        "uploads a file. Can be repeated.",
        "--set",
    ),
]
_Watch = Annotated[
    Path | None,
    option(
        "DIR",
        "Run each new workflow or picture in this folder. With WORKFLOW, run it for each "
        "new file, which is {} in --set.",
    ),
]
_CaFile = Annotated[
    Path | None,
    option(
        "FILE",
        "A PEM file with certificate authorities to trust, for a server with a certificate of "
        "its own. You can also set it in SSL_CERT_FILE.",
    ),
]


@command(
    app,
    "run",
    "run workflow.json --output pictures",
    "run ComfyUI_00001_.png --set KSampler.seed=random",
    "run a.json --set image=@cat.png --set 'Prompt.text=a cat'",
    "run one.json two.json --json",
    "run upscale.json --watch inbox --set image=@{}",
    "run a.json --server https://comfy.test --token-file token",
    short="Run workflows and save their outputs.",
    settings=(),
)
def _run(
    options: dict[str, Any],
    workflows: Annotated[
        list[Path] | None,
        argument(
            "WORKFLOW",
            "Workflows from ComfyUI's editor or in API format, or pictures from ComfyUI; - is "
            "standard input.",
        ),
    ] = None,
    server: Annotated[
        str,
        typer.Option(metavar="URL", envvar="COMFY_SERVER", help="A running proxy, or any ComfyUI."),
    ] = "http://127.0.0.1:8188",
    token_file: Annotated[
        Path | None,
        option(
            "FILE",
            "A file with your token for a gateway. You can also set the token in COMFY_TOKEN.",
            envvar="COMFY_TOKEN_FILE",
        ),
    ] = None,
    ca_file: _CaFile = None,
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The folder for outputs. It is created if it does not exist."
        ),
    ] = Path("output"),
    assignments: _Assignments = None,
    watch: _Watch = None,
    previews: Annotated[
        bool, typer.Option(help="Show pictures in terminals that support it.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each result as a line of JSON.")
    ] = False,
) -> int:
    """Run workflows on a server, one after the other, and download their outputs.

    Shows the position in the queue, the progress of each node, and the time. Ctrl-C and SIGTERM
    cancel the running workflow.
    """
    from proxy.cli.run import Request, run

    return run(
        Request(
            workflows=workflows or [],
            server=server,
            output=output,
            token=_token(token_file),
            ca_file=ca_file,
            assignments=assignments or [],
            watch=watch,
            previews=previews,
            as_json=as_json,
        )
    )


def _token(file: Path | None) -> str | None:
    """Return the token for `run`, from its file or the environment. Raises `CommandError`."""
    if file is None:
        return os.environ.get("COMFY_TOKEN", "").strip() or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"The token in {file} cannot be read ({reason}): correct --token-file."
        ) from None


@command(
    app,
    "demo",
    "demo",
    short="Run an example workflow on the simulator, without a key.",
    settings=(),
)
def _demo(_options: dict[str, Any]) -> int:
    """Start a proxy with the simulator, run an example workflow, and save its pictures.

    The pictures are in ./demo-output then. With COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE
    set, the workflow runs on Comfy Cloud instead.
    """
    from proxy.cli.demo import demo

    return demo()


@command(
    app,
    "check",
    "check",
    "check --api-key-file key.txt",
    "check --json",
    short="Check the connection, the key and the data folder.",
    settings=_CLOUD,
)
def _check(
    options: dict[str, Any],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for bug reports. It contains no key.")
    ] = False,
) -> int:
    """Check the connection to the cloud, the key, the event socket and the data folder.

    Names the settings that are not defaults and where each comes from. Secrets are not printed.
    """
    from proxy.cli.check import check

    return check(load_with_sources(options), as_json=as_json)


@command(
    app,
    "migrate",
    "migrate",
    "migrate --from ~/.local/share/comfy-cloud-proxy",
    short="Migrate the data folder to this version.",
)
def _migrate(
    options: dict[str, Any],
    source: Annotated[
        Path | None,
        option(
            "FOLDER",
            "Copy the records of this data folder into the PostgreSQL database, which must be "
            "empty.",
            "--from",
        ),
    ] = None,
) -> int:
    """Migrate the data folder or the PostgreSQL database to this version without serving.

    `serve` also does this. Processes of the version before can continue in a migrated database.
    """
    return data_folder.migrate(load(options), source)


@command(
    app, "backup", "backup comfy-cloud-proxy.tar.gz", short="Back up the data folder to a file."
)
def _backup(
    options: dict[str, Any],
    target: Annotated[
        Path,
        argument(
            "FILE", "The tar file to write. It is compressed if its name ends with .gz or .tgz."
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> int:
    """Back up the data folder to a file. A running server does not need to stop.

    A file that exists is only replaced with --force.

    Back up a PostgreSQL database with its own tools, such as pg_dump.

    The backup contains prompts, members and hashes of tokens: protect it like the folder. It does
    not contain what the proxy can download from Comfy Cloud again.
    """
    return data_folder.backup(load(options), target, force=force)


@command(
    app,
    "restore",
    "restore comfy-cloud-proxy.tar.gz",
    short="Restore a backup into the data folder.",
)
def _restore(
    options: dict[str, Any], source: Annotated[Path, argument("FILE", "A file from `backup`.")]
) -> int:
    """Restore a backup into the data folder. Stop the server first.

    Restore a PostgreSQL database with its own tools, such as pg_restore.

    The previous content moves to a folder replaced-N in the data folder. Jobs that wait in the
    backup may have run since: they are held until you release them (see jobs release).
    """
    return data_folder.restore(load(options), source)


@command(
    app,
    "rotate-secret",
    "rotate-secret --config config.toml",
    short="Create a new secret for all processes.",
)
def _rotate_secret(options: dict[str, Any]) -> int:
    """Create a new secret for encryption and signatures in the PostgreSQL database.

    Running processes use it within a minute. Data made with the old secret stays readable.
    """
    return data_folder.rotate_secret(load(options))


_catalog = typer.Typer(
    help="Keep the list of nodes of a deployment.",
    no_args_is_help=True,
    epilog=examples("catalog save http://127.0.0.1:8188 object_info.json"),
)
app.add_typer(_catalog, name="catalog")


@command(
    _catalog,
    "save",
    "catalog save http://127.0.0.1:8188 object_info.json",
    short="Save the list of nodes of a ComfyUI.",
    settings=(),
)
def _save_catalog(
    options: dict[str, Any],
    address: Annotated[str, argument("ADDRESS", "The address of a ComfyUI with these nodes.")],
    target: Annotated[Path, argument("FILE", "The file to write.")],
) -> int:
    """Save the list of nodes of a ComfyUI, for `object_info` of a deployment with the same nodes.

    A file that exists is replaced. A running proxy reads it when its list is an
    hour old, or when a client names a node that the list lacks.
    """
    del options
    from proxy.cli.catalog import save

    return save(address, target)


app.add_typer(service, name="service")
app.add_typer(jobs, name="jobs")
app.add_typer(member, name="member")
app.add_typer(token, name="token")
