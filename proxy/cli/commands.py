"""The commands of the program, its default command, and how it reports errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from proxy import __version__
from proxy.cli.common import CommandError, takes_settings
from proxy.settings import ConfigError, load

_PROGRAM = "comfy-cloud-proxy"
_OF_THE_PROGRAM = ("-h", "--help", "--version", "--install-completion", "--show-completion")


def _examples(*lines: str) -> str:
    """The examples below the help of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  {_PROGRAM} {line}".rstrip() for line in lines)


app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for a failure, 2 for wrong arguments."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(with_default_command(arguments), prog_name=_PROGRAM, standalone_mode=False)
        if callable(code):  # a server, for whose whole life the tree of commands need not stay
            code = code()
    except ConfigError as error:
        code = _complain(str(error), 2)
    except CommandError as error:
        code = _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else _PROGRAM
        sentence = f"{error.format_message().rstrip('.')}: see {command} --help."
        code = _complain(sentence, error.exit_code)
    except typer.Abort:
        code = _complain("Aborted.", 1)
    sys.exit(code)


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `serve` before them if they name no command."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _OF_THE_PROGRAM):
        return ["serve", *arguments]
    return list(arguments)


def _complain(sentence: str, code: int) -> int:
    typer.echo(sentence, err=True)
    return code


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(
    epilog=_examples("--simulate", "run workflow.json", "check", "serve --help"),
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version)
    ] = False,
) -> None:
    """A local ComfyUI API whose workflows run on Comfy Cloud.

    Without a command, `serve` runs. The exit code is 0 after success, 1 after a failure, 2 for a
    wrong option, setting or file, and 130 when Ctrl-C cancels a run.
    """


@app.command(
    "serve",
    short_help="Serve the local ComfyUI API (the default).",
    epilog=_examples(
        "",
        "--simulate",
        "--port 8200 --api-key-file key.txt",
        "serve --config config.toml --log-format json",
    ),
)
@takes_settings()
def _serve(
    options: dict[str, Any],
    start_empty: Annotated[
        bool,
        typer.Option(
            "--start-empty",
            help="Replace a damaged database by an empty one. The damaged file is kept.",
        ),
    ] = False,
) -> Callable[[], int]:
    """Serve the API of a local ComfyUI and run every workflow on Comfy Cloud."""
    settings = load(options).model_copy(update={"start_empty": start_empty})

    def serve() -> int:
        from proxy.cli.serve import serve

        return serve(settings)

    return serve


@app.command(
    "run",
    short_help="Run workflows and save their outputs.",
    epilog=_examples(
        "run workflow.json --output pictures",
        "run ComfyUI_00001_.png --set KSampler.seed=random",
        "run a.json --set image=@cat.png --set 'Prompt.text=a cat'",
        "run one.json two.json --json",
        "run upscale.json --watch inbox --set image=@{}",
        "run a.json --server https://comfy.test --token-file token",
    ),
)
def _run(
    workflows: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="WORKFLOW",
            help="Workflows from ComfyUI's editor or in API format, or pictures from ComfyUI; - is "
            "standard input.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str,
        typer.Option(metavar="URL", envvar="COMFY_SERVER", help="A running proxy, or any ComfyUI."),
    ] = "http://127.0.0.1:8188",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="COMFY_TOKEN_FILE",
            help="A file with your token for a gateway. You can also set the token in COMFY_TOKEN.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The folder for outputs. It is created if it does not exist."
        ),
    ] = Path("output"),
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NODE.INPUT=VALUE",
            help="Set an input. NODE is the id, title or class of a node. You can omit it if only "
            "one node has this input. VALUE is JSON or text; random sets a random seed, @FILE "
            "uploads a file. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Run each new workflow or picture in this folder. With WORKFLOW, run it for each "
            "new file, which is {} in --set.",
            show_default=False,
        ),
    ] = None,
    previews: Annotated[
        bool, typer.Option(help="Show pictures in terminals that support it.")
    ] = True,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print each result as a line of JSON."),
    ] = False,
) -> int:
    """Run workflows on a server, one after the other, and download their outputs.

    Shows the position in the queue, the progress of each node, and the time. Ctrl-C cancels the
    running workflow.
    """
    from proxy.cli.run import Request, run

    return run(
        Request(
            workflows=workflows or [],
            server=server,
            output=output,
            token=_token(token_file),
            assignments=assignments or [],
            watch=watch,
            previews=previews,
            as_json=as_json,
        )
    )


def _token(file: Path | None) -> str | None:
    """The token for `run`, from its file or the environment. Raises `CommandError`."""
    if file is None:
        return os.environ.get("COMFY_TOKEN", "").strip() or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"The token in {file} cannot be read ({error}): correct --token-file.", exit_code=2
        ) from None


@app.command(
    "check",
    short_help="Check the connection, the key and the data folder.",
    epilog=_examples("check", "check --api-key-file key.txt", "check --json"),
)
@takes_settings({"config", "data_dir", "simulate", "api_key_file", "base_url"})
def _check(
    options: dict[str, Any],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for bug reports. It contains no key.")
    ] = False,
) -> int:
    """Check the connection to the cloud, the key, the event socket and the data folder."""
    from proxy.cli.check import check

    return check(load(options), as_json=as_json)


@app.command(
    "probe",
    short_help="Measure how Comfy Cloud behaves with your key.",
    epilog=_examples("probe", "probe --level run --json report.json"),
)
@takes_settings({"config", "data_dir", "simulate", "api_key_file", "base_url"})
def _probe(
    options: dict[str, Any],
    level: Annotated[
        Literal["read", "run"],
        typer.Option(metavar="read|run", help="Only read, or also run small jobs."),
    ] = "read",
    to: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the report to this file.", show_default=False
        ),
    ] = None,
    idle: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="How long `run` watches a socket without traffic."
        ),
    ] = 65.0,
    consent: Annotated[bool, typer.Option("--yes", help="Run jobs without asking.")] = False,
) -> int:
    """Measure how Comfy Cloud behaves where its documentation is unclear.

    The report contains no key, no signed URL and no prompts of others. The exit code is 0 if the
    proxy works with this cloud, 1 if it works with limits, and 2 if it does not.
    """
    from proxy.cli.check import run_probe

    return run_probe(load(options), level=level, to=to, idle=idle, consent=consent)


_WHERE = {"config", "data_dir", "simulate"}


@app.command(
    "migrate",
    short_help="Migrate the data folder to this version.",
    epilog=_examples("migrate", "migrate --from ~/.comfy-cloud-proxy"),
)
@takes_settings(_WHERE)
def _migrate(
    options: dict[str, Any],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Copy the records of this data folder into the PostgreSQL database, which must be "
            "empty.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Migrate the data folder or the PostgreSQL database to this version without serving.

    `serve` also does this. Replicas of the version before can continue in a migrated database.
    """
    from proxy.cli.data_folder import migrate

    return migrate(load(options), source)


@app.command(
    "backup",
    short_help="Back up the data folder to a file.",
    epilog=_examples("backup comfy-cloud-proxy.tar.gz"),
)
@takes_settings(_WHERE)
def _backup(
    options: dict[str, Any],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The tar file to write. It is compressed if its name ends with .gz or .tgz.",
            show_default=False,
        ),
    ],
) -> int:
    """Back up the data folder to a file. A running server does not need to stop.

    Back up a PostgreSQL database with its own tools, such as pg_dump.

    The backup contains prompts, members and hashes of tokens: protect it like the folder. It does
    not contain what the proxy can download from Comfy Cloud again.
    """
    from proxy.cli.data_folder import backup

    return backup(load(options), target)


@app.command(
    "restore",
    short_help="Restore a backup into the data folder.",
    epilog=_examples("restore comfy-cloud-proxy.tar.gz"),
)
@takes_settings(_WHERE)
def _restore(
    options: dict[str, Any],
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file from `backup`.", show_default=False),
    ],
) -> int:
    """Restore a backup into the data folder. Stop the server first.

    Restore a PostgreSQL database with its own tools, such as pg_restore.

    The previous content moves to a folder replaced-N in the data folder.
    """
    from proxy.cli.data_folder import restore

    return restore(load(options), source)


@app.command(
    "rotate-secret",
    short_help="Create a new secret for all replicas.",
    epilog=_examples("rotate-secret --config config.toml"),
)
@takes_settings(_WHERE)
def _rotate_secret(options: dict[str, Any]) -> int:
    """Create a new secret for encryption and signatures in the database of the replicas.

    Running replicas use it within a minute. Data made with the old secret stays readable.
    """
    from proxy.cli.data_folder import rotate_secret

    return rotate_secret(load(options))


_MEMBER = typer.Option(metavar="NAME", help="Only this member.", show_default=False)


@app.command(
    "usage",
    short_help="Print usage by day and member.",
    epilog=_examples(
        "usage", "usage --from 2026-01-01 --to 2026-01-31", "usage --member anna --json"
    ),
)
@takes_settings(_WHERE)
def _usage(
    options: dict[str, Any],
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DAY",
            help="The first day (UTC), such as 2026-01-31. The default is the last day.",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DAY", help="The last day. The default is today.", show_default=False
        ),
    ] = None,
    member: Annotated[str | None, _MEMBER] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Print usage: jobs, running seconds, outputs and bytes by day and member."""
    from proxy.cli.members import Form, usage

    form: Form = "csv" if as_csv else "json" if as_json else "table"
    return usage(load(options), first=first, last=last, member=member, form=form)


@app.command(
    "audit",
    short_help="Print the audit log.",
    epilog=_examples("audit --limit 20", "audit --member anna --action submit"),
)
@takes_settings(_WHERE)
def _audit(
    options: dict[str, Any],
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="COUNT", help="The maximum number of entries.")
    ] = 100,
    member: Annotated[str | None, _MEMBER] = None,
    action: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this action.", show_default=False),
    ] = None,
) -> int:
    """Print the audit log, newest first, one line of JSON per entry."""
    from proxy.cli.members import audit

    return audit(load(options), limit=limit, member=member, action=action)


service = typer.Typer(
    help="Run the proxy as a service of your user.",
    no_args_is_help=True,
    epilog=_examples("service install", "service uninstall"),
)
app.add_typer(service, name="service")


@service.command(
    "install",
    short_help="Install and start the service.",
    epilog=_examples(
        "service install",
        "service install --config config.toml",
        "service install --simulate --print",
    ),
)
@takes_settings()
def _install(
    options: dict[str, Any],
    show: Annotated[
        bool, typer.Option("--print", help="Print the service file without installing it.")
    ] = False,
) -> int:
    """Install the proxy as a service that starts at login (systemd or launchd).

    The service uses these options and the settings of the environment. A key in
    COMFY_CLOUD_API_KEY is written to a file that only you can read. Run the command again to
    change the options.
    """
    from proxy.cli.service import install

    return install(load(options), options, show=show)


@service.command("uninstall", epilog=_examples("service uninstall"))
def _uninstall() -> int:
    """Stop the service and remove it. The data folder stays."""
    from proxy.cli.service import uninstall

    return uninstall()


member = typer.Typer(
    help="Manage members and their limits.",
    no_args_is_help=True,
    epilog=_examples("member add anna", "member list"),
)
token = typer.Typer(
    help="Create and revoke tokens.", no_args_is_help=True, epilog=_examples("token new anna")
)
app.add_typer(member, name="member")
app.add_typer(token, name="token")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The member.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _limit(metavar: str, text: str, *names: str) -> Any:
    return Annotated[
        str | None, typer.Option(*names, metavar=metavar, help=text, show_default=False)
    ]


#: The options for what a member may do, by their names in `MemberFields`.
_LIMITS: dict[str, Any] = {
    "role": _limit("ROLE", "user or admin."),
    "weight": _limit("NUMBER", "The share of turns. The default is 1."),
    "max_queued": _limit(
        "N", "The maximum number of waiting jobs; none removes the limit.", "--max-queued"
    ),
    "max_running": _limit(
        "N", "The maximum number of running jobs; none removes the limit.", "--max-running"
    ),
    "jobs_per_day": _limit(
        "N", "The maximum number of jobs per day (UTC); none removes the limit.", "--jobs-per-day"
    ),
    "upload_bytes_per_day": _limit(
        "N",
        "The maximum bytes of uploads per day (UTC); none removes the limit.",
        "--upload-bytes-per-day",
    ),
    "stored_bytes": _limit(
        "N",
        "The maximum bytes of user data and settings; none removes the limit.",
        "--stored-bytes",
    ),
    "requests_per_second": _limit(
        "N",
        "The maximum number of requests per second; none removes the limit.",
        "--requests-per-second",
    ),
    "denied_classes": Annotated[
        list[str] | None,
        typer.Option(
            "--deny-class",
            metavar="CLASS",
            help="A node class that workflows must not contain. Can be repeated; none allows all.",
            show_default=False,
        ),
    ],
    "deny_partner_nodes": Annotated[
        bool | None,
        typer.Option(
            "--deny-partner-nodes/--allow-partner-nodes",
            help="Refuse or allow partner nodes, which cost credits.",
            show_default=False,
        ),
    ],
    "client_parallelism": _limit(
        "auto|one|many",
        "How many jobs of one client run at once; none uses the setting.",
        "--client-parallelism",
    ),
}


@member.command(
    "add",
    epilog=_examples(
        "member add anna --role admin", "member add bot --max-running 1 --jobs-per-day 100"
    ),
)
@takes_settings(_WHERE, _LIMITS)
def _add(
    options: dict[str, Any],
    name: Name,
    restore: Annotated[
        bool,
        typer.Option("--restore", help="Restore a removed member with history and files."),
    ] = False,
) -> int:
    """Add a member. With at least one member, every client needs a token."""
    from proxy.cli import members

    wanted = {key: options.pop(key, None) for key in _LIMITS}
    return members.add_member(load(options), name, wanted, restore=restore)


@member.command(
    "list",
    epilog=_examples("member list", "member list --json"),
)
@takes_settings(_WHERE)
def _list(options: dict[str, Any], as_json: AsJson = False) -> int:
    """List the members with their limits."""
    from proxy.cli import members

    return members.list_members(load(options), as_json=as_json)


@member.command(
    "set",
    short_help="Change the role, weight or limits of a member.",
    epilog=_examples("member set anna --weight 2 --max-queued none"),
)
@takes_settings(_WHERE, _LIMITS)
def _set(options: dict[str, Any], name: Name) -> int:
    """Change the role, weight or limits of a member."""
    from proxy.cli import members

    wanted = {key: options.pop(key, None) for key in _LIMITS}
    return members.set_member(load(options), name, wanted)


@member.command(
    "disable",
    short_help="Disable a member at once.",
    epilog=_examples("member disable anna"),
)
@takes_settings(_WHERE)
def _disable(options: dict[str, Any], name: Name) -> int:
    """Disable a member at once. Jobs, files and tokens are kept."""
    from proxy.cli import members

    return members.enable_member(load(options), name, enabled=False)


@member.command(
    "enable",
    epilog=_examples("member enable anna"),
)
@takes_settings(_WHERE)
def _enable(options: dict[str, Any], name: Name) -> int:
    """Enable a disabled member."""
    from proxy.cli import members

    return members.enable_member(load(options), name, enabled=True)


@member.command(
    "remove",
    short_help="Remove a member and its tokens.",
    epilog=_examples("member remove anna"),
)
@takes_settings(_WHERE)
def _remove(options: dict[str, Any], name: Name) -> int:
    """Remove a member and its tokens. History and files stay on disk, hidden from all members."""
    from proxy.cli import members

    return members.remove_member(load(options), name)


@token.command(
    "new",
    epilog=_examples("token new anna --expires 90d --note laptop"),
)
@takes_settings(_WHERE)
def _new(
    options: dict[str, Any],
    name: Name,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The time after which it expires, such as 90d or 12h. The default is never.",
            show_default=False,
        ),
    ] = None,
    note: Annotated[
        str, typer.Option(metavar="TEXT", help="A description.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Create a token for a member and print it once."""
    from proxy.cli import members

    return members.new_token(load(options), name, expires=expires, note=note, as_json=as_json)


@token.command(
    "revoke",
    short_help="Revoke a token at once.",
    epilog=_examples("token revoke ccp_ab12"),
)
@takes_settings(_WHERE)
def _revoke(
    options: dict[str, Any],
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX",
            help="The first letters of the token, such as ccp_ab12.",
            show_default=False,
        ),
    ],
) -> int:
    """Revoke a token at once, and close the connections that use it."""
    from proxy.cli import members

    return members.revoke_token(load(options), prefix)


@token.command(
    "list",
    short_help="List tokens.",
    epilog=_examples("token list", "token list anna --json"),
)
@takes_settings(_WHERE)
def _list_tokens(
    options: dict[str, Any],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Only this member.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List the first letters of each token, with the time and address of its last use."""
    from proxy.cli import members

    return members.list_tokens(load(options), name, as_json=as_json)
