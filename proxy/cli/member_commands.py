"""The commands below `member` and `token`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from proxy.cli.options import takes_settings
from proxy.settings import load

_WHERE = {"config", "data_dir", "simulate"}

member = typer.Typer(help="Say who may use the proxy, and how much.", no_args_is_help=True)
token = typer.Typer(help="Make and revoke members' tokens.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The member.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _limit(metavar: str, text: str, *names: str) -> OptionInfo:
    option: OptionInfo = typer.Option(*names, metavar=metavar, help=text, show_default=False)
    return option


Role = Annotated[str | None, _limit("ROLE", "user or admin.")]
Weight = Annotated[str | None, _limit("NUMBER", "The share of turns, beside others' 1.")]
Queued = Annotated[
    str | None, _limit("N", "Most jobs that may wait; none is no limit.", "--max-queued")
]
Running = Annotated[
    str | None, _limit("N", "Most jobs at once; none is no limit.", "--max-running")
]
PerDay = Annotated[
    str | None, _limit("N", "Most jobs a day (UTC); none is no limit.", "--jobs-per-day")
]
Upload = Annotated[
    str | None,
    _limit(
        "N", "How many bytes of uploads a day (UTC); none is no limit.", "--upload-bytes-per-day"
    ),
]
Stored = Annotated[
    str | None,
    _limit("N", "How many bytes of user data and settings; none is no limit.", "--stored-bytes"),
]
Requests = Annotated[
    str | None,
    _limit("N", "Most requests a second; none: no limit.", "--requests-per-second"),
]
Denied = Annotated[
    list[str] | None,
    typer.Option(
        "--deny-class",
        metavar="CLASS",
        help="A node class that no workflow may have. May be repeated; none allows all again.",
        show_default=False,
    ),
]
Partner = Annotated[
    bool | None,
    typer.Option(
        "--deny-partner-nodes/--allow-partner-nodes",
        help="Whether nodes that are paid for by use are refused.",
        show_default=False,
    ),
]
Clients = Annotated[
    str | None,
    _limit(
        "auto|one|many",
        "How many jobs of one client run at once; none leaves it to the setting.",
        "--client-parallelism",
    ),
]


@member.command("add")
@takes_settings(_WHERE)
def _add(
    options: dict[str, Any],
    name: Name,
    role: Role = None,
    weight: Weight = None,
    max_queued: Queued = None,
    max_running: Running = None,
    jobs_per_day: PerDay = None,
    upload_bytes_per_day: Upload = None,
    stored_bytes: Stored = None,
    requests_per_second: Requests = None,
    denied_classes: Denied = None,
    deny_partner_nodes: Partner = None,
    client_parallelism: Clients = None,
    restore: Annotated[
        bool,
        typer.Option("--restore", help="Take back a removed member, with history and files."),
    ] = False,
) -> int:
    """Add a member. With the first one every client needs a token."""
    from proxy.cli import members

    given = dict(locals())
    wanted = {key: given[key] for key in _FIELDS}
    return members.add_member(load(options), name, wanted, restore=restore)


_FIELDS = (
    "role",
    "weight",
    "max_queued",
    "max_running",
    "jobs_per_day",
    "upload_bytes_per_day",
    "stored_bytes",
    "requests_per_second",
    "denied_classes",
    "deny_partner_nodes",
    "client_parallelism",
)


@member.command("list")
@takes_settings(_WHERE)
def _list(options: dict[str, Any], as_json: AsJson = False) -> int:
    """Print the members with their limits."""
    from proxy.cli import members

    return members.list_members(load(options), as_json=as_json)


@member.command("set")
@takes_settings(_WHERE)
def _set(
    options: dict[str, Any],
    name: Name,
    role: Role = None,
    weight: Weight = None,
    max_queued: Queued = None,
    max_running: Running = None,
    jobs_per_day: PerDay = None,
    upload_bytes_per_day: Upload = None,
    stored_bytes: Stored = None,
    requests_per_second: Requests = None,
    denied_classes: Denied = None,
    deny_partner_nodes: Partner = None,
    client_parallelism: Clients = None,
) -> int:
    """Change the role, the weight or limits of a member."""
    from proxy.cli import members

    given = dict(locals())
    return members.set_member(load(options), name, {key: given[key] for key in _FIELDS})


@member.command("disable")
@takes_settings(_WHERE)
def _disable(options: dict[str, Any], name: Name) -> int:
    """Shut a member out, at once; its jobs, files and tokens stay."""
    from proxy.cli import members

    return members.enable_member(load(options), name, enabled=False)


@member.command("enable")
@takes_settings(_WHERE)
def _enable(options: dict[str, Any], name: Name) -> int:
    """Let a disabled member in again."""
    from proxy.cli import members

    return members.enable_member(load(options), name, enabled=True)


@member.command("remove")
@takes_settings(_WHERE)
def _remove(options: dict[str, Any], name: Name) -> int:
    """Remove a member and its tokens. History and files stay on disk for nobody to see."""
    from proxy.cli import members

    return members.remove_member(load(options), name)


@token.command("new")
@takes_settings(_WHERE)
def _new(
    options: dict[str, Any],
    name: Name,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="After which time it expires, as 90d or 12h. Without it never.",
            show_default=False,
        ),
    ] = None,
    note: Annotated[
        str, typer.Option(metavar="TEXT", help="What it is for.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Make a token for a member and print it, this once."""
    from proxy.cli import members

    return members.new_token(load(options), name, expires=expires, note=note, as_json=as_json)


@token.command("revoke")
@takes_settings(_WHERE)
def _revoke(
    options: dict[str, Any],
    prefix: Annotated[
        str,
        typer.Argument(metavar="PREFIX", help="How it begins, as ccp_ab12.", show_default=False),
    ],
) -> int:
    """Revoke a token, at once: whoever came in by it is shown out."""
    from proxy.cli import members

    return members.revoke_token(load(options), prefix)


@token.command("list")
@takes_settings(_WHERE)
def _list_tokens(
    options: dict[str, Any],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Of this member alone.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Print the tokens, by their beginnings, with when and from where each was used last."""
    from proxy.cli import members

    return members.list_tokens(load(options), name, as_json=as_json)
