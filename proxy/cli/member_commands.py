"""The commands `member`, `token`, `usage` and `audit`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proxy.cli.common import WHERE, examples, takes_settings
from proxy.settings import load

member = typer.Typer(
    help="Manage members and their limits.",
    no_args_is_help=True,
    epilog=examples("member add anna", "member list"),
)
token = typer.Typer(
    help="Create and revoke tokens.", no_args_is_help=True, epilog=examples("token new anna")
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The member.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _limit(metavar: str, text: str) -> Any:
    return Annotated[str | None, typer.Option(metavar=metavar, help=text, show_default=False)]


#: The options for what a member may do, by their names in `MemberFields`.
_LIMITS: dict[str, Any] = {
    "role": _limit("ROLE", "user or admin."),
    "weight": _limit("NUMBER", "The share of turns. The default is 1."),
    "max_queued": _limit("N", "The maximum number of waiting jobs; none removes the limit."),
    "max_running": _limit("N", "The maximum number of running jobs; none removes the limit."),
    "jobs_per_day": _limit(
        "N", "The maximum number of jobs per day (UTC); none removes the limit."
    ),
    "upload_bytes_per_day": _limit(
        "N", "The maximum bytes of uploads per day (UTC); none removes the limit."
    ),
    "stored_bytes": _limit(
        "N", "The maximum bytes of user data and settings; none removes the limit."
    ),
    "requests_per_second": _limit(
        "N", "The maximum number of requests per second; none removes the limit."
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
        "auto|one|many", "How many jobs of one client run at once; none uses the setting."
    ),
}


@member.command(
    "add",
    epilog=examples(
        "member add anna --role admin", "member add bot --max-running 1 --jobs-per-day 100"
    ),
)
@takes_settings(WHERE, _LIMITS)
def _add(
    options: dict[str, Any],
    name: Name,
    restore: Annotated[
        bool, typer.Option("--restore", help="Restore a removed member with history and files.")
    ] = False,
) -> int:
    """Add a member. With at least one member, every client needs a token."""
    from proxy.cli import members

    wanted = {key: options.pop(key, None) for key in _LIMITS}
    return members.add_member(load(options), name, wanted, restore=restore)


@member.command("list", epilog=examples("member list", "member list --json"))
@takes_settings(WHERE)
def _list(options: dict[str, Any], as_json: AsJson = False) -> int:
    """List the members with their limits."""
    from proxy.cli import members

    return members.list_members(load(options), as_json=as_json)


@member.command(
    "set",
    short_help="Change the role, weight or limits of a member.",
    epilog=examples("member set anna --weight 2 --max-queued none"),
)
@takes_settings(WHERE, _LIMITS)
def _set(options: dict[str, Any], name: Name) -> int:
    """Change the role, weight or limits of a member."""
    from proxy.cli import members

    wanted = {key: options.pop(key, None) for key in _LIMITS}
    return members.set_member(load(options), name, wanted)


@member.command(
    "disable", short_help="Disable a member at once.", epilog=examples("member disable anna")
)
@takes_settings(WHERE)
def _disable(options: dict[str, Any], name: Name) -> int:
    """Disable a member at once. Jobs, files and tokens are kept."""
    from proxy.cli import members

    return members.enable_member(load(options), name, enabled=False)


@member.command("enable", epilog=examples("member enable anna"))
@takes_settings(WHERE)
def _enable(options: dict[str, Any], name: Name) -> int:
    """Enable a disabled member."""
    from proxy.cli import members

    return members.enable_member(load(options), name, enabled=True)


@member.command(
    "remove", short_help="Remove a member and its tokens.", epilog=examples("member remove anna")
)
@takes_settings(WHERE)
def _remove(options: dict[str, Any], name: Name) -> int:
    """Remove a member and its tokens. History and files stay on disk, hidden from all members."""
    from proxy.cli import members

    return members.remove_member(load(options), name)


@token.command("new", epilog=examples("token new anna --expires 90d --note laptop"))
@takes_settings(WHERE)
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
    "revoke", short_help="Revoke a token at once.", epilog=examples("token revoke ccp_ab12")
)
@takes_settings(WHERE)
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
    "list", short_help="List tokens.", epilog=examples("token list", "token list anna --json")
)
@takes_settings(WHERE)
def _list_tokens(
    options: dict[str, Any],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this member.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List the first letters of each token, with the time and address of its last use."""
    from proxy.cli import members

    return members.list_tokens(load(options), name, as_json=as_json)


_MEMBER = typer.Option(metavar="NAME", help="Only this member.", show_default=False)


@takes_settings(WHERE)
def usage(
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
    from proxy.cli import members

    form: members.Form = "csv" if as_csv else "json" if as_json else "table"
    return members.usage(load(options), first=first, last=last, member=member, form=form)


@takes_settings(WHERE)
def audit(
    options: dict[str, Any],
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="COUNT", help="The maximum number of entries.")
    ] = 100,
    member: Annotated[str | None, _MEMBER] = None,
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this action.", show_default=False)
    ] = None,
) -> int:
    """Print the audit log, newest first, one line of JSON per entry."""
    from proxy.cli import members

    return members.audit(load(options), limit=limit, member=member, action=action)
