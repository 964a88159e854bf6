"""`member`: who may use a proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from proxy.admin.schema.administration import member_shown
from proxy.cli.common import UsageError, argument, command, examples
from proxy.cli.member_options import LIMITS, limits_of
from proxy.cli.records import record_action, with_directory
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say, shown_time
from proxy.costs.budgets import NO_BUDGETS, budgets_of
from proxy.costs.credits import credits_text, from_credits
from proxy.costs.job_cost import seconds_cost
from proxy.members.directory import Directory
from proxy.members.member import Member, MemberFields, NewMember, validated
from proxy.settings import Settings, load, record_options

#: How long most plans let a run take, in ms.
_RUN_MS = 30 * 60_000
#: From so many jobs at once on a budget does not restrict a usual plan.
_MANY = 5

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
    record_action(settings, "member_added", name=member.name, role=member.role)
    say(
        f"{member.name} was added ({member.role}). "
        f"Next: comfy-cloud-proxy token new {member.name}{record_options(settings)}"
    )
    _explain_budgets(settings, member)
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
    record_action(settings, "member_changed", name=member.name, what=", ".join(sorted(wanted)))
    say(f"{member.name} is changed.")
    if any(name.startswith("credits_") for name in wanted.get("limits", {})):
        _explain_budgets(settings, member)
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
    record_action(settings, "member_removed", name=member.name)
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
    record_action(settings, "member_enabled" if enabled else "member_disabled", name=member.name)
    say(f"{member.name} is {'enabled' if enabled else 'disabled'}.")
    return 0


def _explain_budgets(settings: Settings, member: Member) -> None:
    """Say how many jobs the own hard budgets of a member let run at once."""
    rates = [table.credits_per_second for table in settings.accounts]
    rate = from_credits(max([settings.credits_per_second, *(rate or 0 for rate in rates)]))
    ceiling = seconds_cost(_RUN_MS, rate)
    for budget in budgets_of(member.limits, NO_BUDGETS).all:
        at_once = budget.limit // ceiling + 1 if ceiling else _MANY
        if budget.hard and at_once < _MANY:
            say(
                f"Until a job ends, it counts against the {credits_text(budget.limit)} a "
                f"{budget.period} with the most that it can cost: {credits_text(ceiling)} where "
                f"the plan lets a run take 30 minutes. So {member.name} runs at most {at_once} "
                f"{'job' if at_once == 1 else 'jobs'} at once, and fewer as the budget is spent. A "
                "soft budget does not restrict this."
            )


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
