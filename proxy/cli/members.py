"""`member`: who may use a proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from proxy.admin.schema.administration import member_shown
from proxy.cli.common import UsageError, argument, command, examples
from proxy.cli.member_options import LIMITS, limits_of
from proxy.cli.records import note_action, with_directory
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say, shown_time
from proxy.members.directory import Directory
from proxy.members.member import Member, MemberFields, NewMember, validated
from proxy.settings import Settings, load, record_options

member = typer.Typer(
    help="Manage members and their limits.",
    no_args_is_help=True,
    epilog=examples("member add anna", "member list"),
)

Name = Annotated[str, argument("NAME", "The member.")]


@command(
    member,
    "add",
    "member add anna --role admin",
    "member add bot --max-running 1 --jobs-per-day 100",
    more=LIMITS,
)
def _add(
    options: dict[str, Any],
    name: Name,
    restore: Annotated[
        bool, typer.Option("--restore", help="Restore a removed member with history and files.")
    ] = False,
) -> int:
    """Add a member. With at least one member, every client needs a token."""

    wanted = {**limits_of(options), "name": name, "restore": restore}
    settings = load(options)

    async def add(directory: Directory) -> Member:
        checked = validated(wanted, NewMember, strict=False)
        return await directory.add(checked.member(), restore=checked.restore)

    member = with_directory(settings, add, make=True)
    note_action(settings, "member_added", name=member.name, role=member.role)
    say(
        f"{member.name} was added ({member.role}). "
        f"Next: comfy-cloud-proxy token new {member.name}{record_options(settings)}"
    )
    return 0


@command(member, "list", "member list", "member list --json")
def _list(options: dict[str, Any], as_json: AsJson = False) -> int:
    """List the members with their limits."""

    async def rows(directory: Directory) -> list[dict[str, Any]]:
        members = directory.members()
        return [msgspec.to_builtins(member_shown(directory, member)) for member in members]

    found = with_directory(load(options), rows)
    if as_json:
        return print_json(found)
    columns: Columns = {
        "Name": lambda member: member["name"],
        "Role": lambda member: member["role"],
        "State": lambda member: "disabled" if member["disabled"] else "enabled",
        "Weight": lambda member: f"{member['weight']:g}",
        "Tokens": lambda member: str(member["tokens"]),
        "Limits": _limits,
        "Since": lambda member: shown_time(member["created"]),
    }
    return print_table(found, columns)


@command(
    member,
    "set",
    "member set anna --weight 2 --max-queued none",
    short="Change the role, weight or limits of a member.",
    more=LIMITS,
)
def _set(options: dict[str, Any], name: Name) -> int:
    """Change the role, weight or limits of a member."""

    wanted = limits_of(options)
    settings = load(options)
    if not wanted:
        raise UsageError("No option given: see comfy-cloud-proxy member set --help.")

    async def change(directory: Directory) -> Member:
        checked = validated(wanted, MemberFields, strict=False)
        return await directory.change(name, **checked.changes())

    member = with_directory(settings, change)
    note_action(settings, "member_changed", name=member.name, what=", ".join(sorted(wanted)))
    say(f"{member.name} is changed.")
    return 0


@command(member, "disable", "member disable anna")
def _disable(options: dict[str, Any], name: Name) -> int:
    """Disable a member at once. Jobs, files and tokens are kept."""
    return _enabled(load(options), name, enabled=False)


@command(member, "enable", "member enable anna")
def _enable(options: dict[str, Any], name: Name) -> int:
    """Enable a disabled member."""
    return _enabled(load(options), name, enabled=True)


@command(member, "remove", "member remove anna")
def _remove(options: dict[str, Any], name: Name) -> int:
    """Remove a member and its tokens. History and files stay on disk, hidden from all members."""
    settings = load(options)

    async def remove(directory: Directory) -> tuple[Member, bool]:
        return await directory.remove(name), not directory.members()

    member, last = with_directory(settings, remove)
    note_action(settings, "member_removed", name=member.name)
    say(
        f"{member.name} and its tokens were removed. Its history and files stay in the data "
        "folder; `member add --restore` makes them available again."
    )
    if last:
        say(
            "This was the last member: a running proxy refuses all clients until you restart it. "
            "It then serves one person without tokens."
        )
    return 0


def _enabled(settings: Settings, name: str, *, enabled: bool) -> int:
    member = with_directory(
        settings, lambda directory: directory.change(name, disabled=not enabled)
    )
    note_action(settings, "member_enabled" if enabled else "member_disabled", name=member.name)
    say(f"{member.name} is {'enabled' if enabled else 'disabled'}.")
    return 0


def _limits(member: Mapping[str, Any]) -> str:
    limits = member["limits"]
    parts = [
        f"{name} {', '.join(value) if isinstance(value, list | tuple) else f'{value:,}'}"
        for name, value in limits.items()
        if value not in (None, False, (), []) and not isinstance(value, bool)
    ]
    parts += [
        f"{name} {member[name]}" for name in ("client_parallelism", "account") if member[name]
    ]
    if limits["deny_partner_nodes"]:
        parts.append("no partner nodes")
    return "; ".join(parts)
